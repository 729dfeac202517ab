//! Whole flows with definitions.
