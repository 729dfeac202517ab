//! What there is to know about BitBake, OE-Core and layers. Pure where it can be: texts in, facts
//! out; what must run a tool goes through [`exec`](crate::exec).

pub mod bitbake;
pub mod bitbake_layers;
pub mod check_layer;
pub mod conf;
pub mod conf_syntax;
pub mod dependency_versions;
pub mod environment;
pub mod foundation;
pub mod hash_server;
pub mod host;
pub mod layer;
pub mod layer_conf;
pub mod layer_fault;
pub mod mirrors;
pub mod path_rules;
pub mod preflight;
pub mod release;
pub mod server;

pub use release::Release;
