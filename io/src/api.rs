//! Requests that are not calls: functions, executions, callbacks of Jobs and pods. This folder opens no
//! socket.

pub(crate) mod functions;
pub(crate) mod warnings;
pub(crate) mod executions;
pub(crate) mod execution_json;
