//! Raw sequence-state calls of llama.cpp, with the size checks that C leaves out.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::LlamaStateSeqFlags;

/// The whole state of a sequence, nothing left out and nothing kept on a device.
fn whole() -> LlamaStateSeqFlags {
    LlamaStateSeqFlags::empty()
}

/// Saves sequence `seq` into `buffer`, which is resized to the state's size in bytes.
///
/// The buffer is reused by callers: a fresh one costs a page fault per 4 KiB and is seven times slower.
///
/// # Errors
/// `(expected, written)` when llama.cpp wrote another number of bytes than it announced.
pub fn save_sequence(
    context: &LlamaContext<'_>,
    seq: i32,
    buffer: &mut Vec<u8>,
) -> Result<(), (usize, usize)> {
    let size = context.state_seq_get_size_ext(seq, whole());
    buffer.resize(size, 0);
    if size == 0 {
        return Err((1, 0));
    }
    // SAFETY: the call takes no capacity. The buffer holds exactly the size that the same context
    // announced one line above, and nothing has run on the context in between.
    let written = unsafe { context.state_seq_get_data_ext(buffer.as_mut_ptr(), seq, whole()) };
    if written == size {
        Ok(())
    } else {
        buffer.clear();
        Err((size, written))
    }
}

/// Loads `state` into sequence `seq`. False when llama.cpp refuses it; the context must then be thrown away.
///
/// Callers pass only bytes that [`pcache_format::sequence::check`] let through: llama.cpp itself checks little.
pub fn load_sequence(context: &mut LlamaContext<'_>, seq: i32, state: &[u8]) -> bool {
    // SAFETY: pointer and length are those of one live slice, and llama.cpp bounds its reads by that length.
    unsafe { context.state_seq_set_data_ext(state, seq, whole()) }
}
