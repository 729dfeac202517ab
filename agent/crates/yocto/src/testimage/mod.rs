//! OE-Core's tests on a running system (`testimage`, `testexport`, ptests): their configuration, their results, and the
//! verdict on them.

pub mod cases;
pub mod conf;
pub mod conflicts;
pub mod console;
pub mod files;
pub mod kvm;
pub mod layer;
pub mod query;
pub mod reruns;
pub mod results;
pub mod verdict;
