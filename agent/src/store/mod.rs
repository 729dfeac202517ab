//! x
mod collect;
mod names;
mod rules;
mod tree;
