//! `ossia serve` as an operator runs it: its end, its patience, its sockets, its keys, and what it writes down.
#![allow(clippy::unwrap_used)]

mod clients;
mod database;
mod drain;
mod harness;
mod health;
mod keys;
mod logs;
mod provider;
mod sockets;
