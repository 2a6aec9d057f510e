//! What every task of the bridge is given: who this control plane is.

pub(crate) mod identity;
