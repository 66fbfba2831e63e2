//! Random schedules on a fake model that notices every wrong block.

mod failures;
mod fairness;
mod fake_runner;
mod prefix_hits;
mod reference;
mod schedule;
mod schedules;
