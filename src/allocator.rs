//! Where memory comes from: mimalloc, built so that it asks for no transparent huge pages, with which an idle
//! process would hold 12 MiB more.
//! Threads that have worked call `collect` once they rest: mimalloc gives pages back while it is used, and an
//! idle thread does not use it.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Keeps transparent huge pages away also where the system gives them unasked. Processes that this one starts
/// inherit it; the guard switches it off for functions.
pub(crate) fn refuse_huge_pages() {
    // A kernel that cannot switch them off has none, or gives them: it costs memory only.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// Gives back to the system what the calling thread has freed.
#[expect(unsafe_code, reason = "mimalloc's crate has no safe name for it")]
pub(crate) fn collect() {
    // SAFETY: it takes no pointer, and may be called from any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
