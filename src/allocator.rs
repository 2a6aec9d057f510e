//! The memory allocator is mimalloc, built without transparent huge pages, with which an idle process would
//! hold 12 MiB more. mimalloc returns pages to the system only while a thread allocates or frees, so each
//! thread calls `collect` when its load has ended.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Switches transparent huge pages off for this process, even if they are the system's default. Child
/// processes inherit the setting; the guard resets it for functions.
pub(crate) fn refuse_huge_pages() {
    // A failure costs only memory.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// Returns to the system the memory that the calling thread has freed.
#[expect(unsafe_code, reason = "mimalloc's crate has no safe name for it")]
pub(crate) fn collect() {
    // SAFETY: the function takes no pointer, and any thread may call it at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
