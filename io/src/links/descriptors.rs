//! Frees descriptors when few are left: on this thread, or by a request to the other threads.
//! `state::descriptors` decides which client is closed.

use crate::links::Links;

impl Links {
    /// Frees a descriptor for a connection to a pod: closes an idle connection to a pod, or else an idle
    /// client. If this thread has neither, the other threads are asked.
    pub(crate) fn free_descriptor(&self) {
        if !self.pods.close_one() && !self.descriptors.make_room(self.now()) {
            self.want_descriptor();
        }
    }

    /// Requests a descriptor from all io threads. The first thread that takes the request closes an idle
    /// connection.
    pub(crate) fn want_descriptor(&self) {
        self.descriptors.want();
        for shard in &self.shards {
            shard.ring();
        }
    }

    /// Closes an idle connection, if a thread has requested a descriptor.
    pub(crate) fn grant_descriptor(&self) {
        if self.descriptors.take_wish() && !self.pods.close_one() {
            self.descriptors.make_room(self.now());
        }
    }
}
