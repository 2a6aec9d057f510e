//! Brings what the cluster shows together with what this process knows: pods of earlier planes are
//! adopted, the others are passed to their tasks, and what belongs to no function is deleted.

pub(crate) mod adoption;
pub(crate) mod pods;
