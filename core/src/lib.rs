//! This crate makes the decisions of nanofaas, for example which specs are valid, which calls are admitted,
//! which call gets which slot, and which calls are tried again. It also has the rings and bells between
//! threads. It has no clock, socket, thread or async runtime; its functions get the time as an argument. A
//! warm call allocates nothing here. The modules are listed roughly in the order in which a call meets them.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests act in place of clients, pods and clocks"
    )
)]

pub mod limits;
pub mod time;

pub mod spec;
pub mod function;
pub mod registry;

pub mod id;
pub mod rate;
pub mod memory;
pub mod descriptors;
pub mod admission;
mod prediction;
pub mod capacity;
pub mod queue_stats;
pub mod entries;
pub mod ticket;
mod index;
pub mod shard;

pub mod ring;
pub mod bitmap;
pub mod doorbell;
pub mod on_end;
pub mod beat;
pub mod post;

pub mod event;
pub mod scheduler;
mod lane;
mod fifo;
mod slots;
mod pods;
mod scaling;

pub mod call;
pub mod retry;
pub mod outcome;
pub mod wheel;
pub mod metrics;
pub mod histogram;

pub mod message;
pub mod cold_start;
pub mod health;
pub mod work_queue;
pub mod sync;
