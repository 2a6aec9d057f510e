//! The memory allocator: mimalloc, built so that it does not ask for transparent huge pages,
//! because an idle process would hold 12 MiB more with them. A thread calls `collect` when its load
//! has ended, because mimalloc returns pages only while it is used, and an idle thread does not use
//! it.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Switches transparent huge pages off for this process, also if the system gives them by default.
/// Child processes inherit the setting; the guard resets it for functions.
pub(crate) fn refuse_huge_pages() {
    // A failure is ignored, because it costs only memory.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// Returns the memory that the calling thread has freed to the system.
#[expect(unsafe_code, reason = "mimalloc's crate has no safe name for it")]
pub(crate) fn collect() {
    // SAFETY: the function takes no pointer, and any thread may call it at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
