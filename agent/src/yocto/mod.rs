//! What there is to know about BitBake, OE-Core and layers. Pure where it can be: texts in, facts
//! out; what must run a tool goes through [`exec`](crate::exec).

pub mod release;
pub mod server;

pub use release::Release;
