//! Frees descriptors when they are short: on this thread, or by a request to the other threads.
//! `state::descriptors` decides which client goes.

use crate::links::Links;

impl Links {
    /// Frees a descriptor for a connection to a pod: closes an idle connection to a pod, or an idle client,
    /// here or on another thread.
    pub(crate) fn free_descriptor(&self) {
        if !self.pods.close_one() && !self.descriptors.make_room(self.now()) {
            self.want_descriptor();
        }
    }

    /// Asks the other threads to close an idle connection.
    pub(crate) fn want_descriptor(&self) {
        self.descriptors.want();
        for shard in &self.shards {
            shard.ring();
        }
    }

    /// Closes an idle connection, if another thread asked for that.
    pub(crate) fn grant_descriptor(&self) {
        if self.descriptors.take_wish() && !self.pods.close_one() {
            self.descriptors.make_room(self.now());
        }
    }
}
