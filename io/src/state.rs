//! What one io thread remembers: tables without locks, which act for nothing by themselves.

pub(crate) mod call_table;
pub(crate) mod executions;
pub(crate) mod store;
pub(crate) mod idempotency;
pub(crate) mod pod_pool;
pub(crate) mod pod_conn;
pub(crate) mod readers;
pub(crate) mod patience;
pub(crate) mod descriptors;
pub(crate) mod token;
