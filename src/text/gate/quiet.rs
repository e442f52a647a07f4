//! Panics of a library that reads untrusted files, caught and kept off the terminal.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Is this thread inside [`guarded`]?
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What is said of it.
pub(super) const PANICKED: &str = "the tokenizer library failed on it, which is a bug of it";

/// The result of `call`, or `None` if it panicked; the panic prints nothing. The last line of
/// defence: what is known to panic is refused before. (Where panics abort, this cannot help.)
pub(super) fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !GUARDED.try_with(Cell::get).unwrap_or(false) {
                before(panic);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    // What a panic leaves half done is a tokenizer's cache (its locks are tried, not waited for)
    // or a value that is dropped here.
    let result = catch_unwind(AssertUnwindSafe(call)).ok();
    GUARDED.set(outer);
    result
}

/// `call` on a thread of its own whose stack has `stack` bytes (touched pages count, not this
/// number), guarded.
pub(super) fn on_stack<T: Send>(
    stack: usize,
    call: impl FnOnce() -> T + Send,
) -> std::io::Result<Option<T>> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("lowrank-text".into()).stack_size(stack);
        Ok(thread.spawn_scoped(scope, || guarded(call))?.join().ok().flatten())
    })
}
