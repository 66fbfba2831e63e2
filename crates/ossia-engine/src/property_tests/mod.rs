//! Random schedules on a fake model that notices every wrong block.

mod failures;
mod fake_runner;
mod prefix_hits;
mod reference;
mod schedule;
mod schedules;
