//! Answers the requests that are not calls: those about functions and executions, and the callbacks of Jobs
//! and pods. This folder opens no socket.

pub(crate) mod functions;
pub(crate) mod warnings;
pub(crate) mod executions;
pub(crate) mod execution_json;
