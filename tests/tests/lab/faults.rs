//! Stores that answer late, wrongly or not at all, and stores with hostile content.
