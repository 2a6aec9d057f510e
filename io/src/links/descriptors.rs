//! Where descriptors are short this thread makes room, or has the others make it. Which client goes is
//! decided in `state::descriptors`.

use crate::links::Links;

impl Links {
    /// Frees a descriptor for a connection to a pod: an idle one goes, or an idle client, here or on another
    /// thread.
    pub(crate) fn free_descriptor(&self) {
        if !self.pods.close_one() && !self.descriptors.make_room(self.now()) {
            self.want_descriptor();
        }
    }

    /// Other threads may have something idle.
    pub(crate) fn want_descriptor(&self) {
        self.descriptors.want();
        for shard in &self.shards {
            shard.ring();
        }
    }

    /// Does what another thread wanted, if one did.
    pub(crate) fn grant_descriptor(&self) {
        if self.descriptors.take_wish() && !self.pods.close_one() {
            self.descriptors.make_room(self.now());
        }
    }
}
