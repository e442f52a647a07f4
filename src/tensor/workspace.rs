//! Buffers carved out of one byte slice that the caller owns, from one description.
//!
//! [`workspace!`](crate::tensor::workspace::workspace) makes a struct of buffers with two functions
//! that walk the same list: `bytes`, a const function that says beforehand what the buffers take, and
//! `carve`, which takes them. So what is announced and what is taken cannot differ.

use bytemuck::Pod;

use crate::error::{Error, Result};

/// The alignment of the workspace and of every buffer in it, in bytes.
pub(crate) const ALIGN: usize = 64;

/// What is left of the caller's memory.
#[derive(Debug)]
pub(crate) struct Workspace<'w> {
    rest: &'w mut [u8],
}

impl<'w> Workspace<'w> {
    /// The caller's memory, of which at most `need` bytes will be taken.
    pub(crate) fn new(memory: &'w mut [u8], need: usize) -> Result<Self> {
        let remainder = memory.as_ptr().addr() % ALIGN;
        if remainder != 0 {
            return Err(Error::Misaligned { remainder });
        }
        let have = memory.len();
        if have < need {
            return Err(Error::WorkspaceTooSmall { need, have });
        }
        Ok(Self { rest: memory })
    }

    /// `count` numbers, with whatever the memory held.
    pub(crate) fn numbers<T: Pod>(&mut self, count: usize) -> &'w mut [T] {
        bytemuck::cast_slice_mut(self.bytes(count, size_of::<T>()))
    }

    /// `count` copies of `value`. Bytes between the fields (padding) become zero, not what the
    /// stack held: the memory is the caller's to read afterwards.
    pub(crate) fn values<T: Copy>(&mut self, count: usize, value: T) -> &'w mut [T] {
        const { assert!(align_of::<T>() <= ALIGN) };
        let bytes = self.bytes(count, size_of::<T>());
        bytes.fill(0);
        let (start, count) = (bytes.as_mut_ptr().cast::<T>(), bytes.len() / size_of::<T>());
        for i in 0..count {
            // SAFETY: `bytes` has room for `count` values and starts on a 64-byte boundary.
            unsafe { start.add(i).write(value) };
        }
        // SAFETY: all values were just written; the memory is borrowed exclusively for 'w and T
        // needs no drop (Copy).
        unsafe { core::slice::from_raw_parts_mut(start, count) }
    }

    /// The next bytes; none if they are not there, which [`new`](Self::new) has ruled out.
    fn bytes(&mut self, count: usize, size: usize) -> &'w mut [u8] {
        let len = times(count, size);
        let padded = len.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
        let rest = core::mem::take(&mut self.rest);
        let (taken, rest) = rest.split_at_mut_checked(padded).unwrap_or_default();
        self.rest = rest;
        taken.get_mut(..len).unwrap_or_default()
    }
}

/// Lengths too large for the address space saturate; the total then fits nothing.
pub(crate) const fn times(a: usize, b: usize) -> usize {
    a.saturating_mul(b)
}

/// For which width of pointers a size is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pointers {
    /// Those of this target.
    Here,
    /// 32 bits, as on microcontrollers: what a host tells about its firmware.
    Narrow,
}

/// What a workspace can hold: values without a destructor, and their size where pointers have 32
/// bits. Builds for such targets compare it with what the compiler does.
pub(crate) trait Stored: Copy {
    /// The size with 32-bit pointers.
    const NARROW: usize;
}

/// Declares what a workspace can hold: `type: bytes with 32-bit pointers`.
macro_rules! stored {
    ($($Type:ty: $narrow:expr;)+) => { $(
        impl $crate::tensor::workspace::Stored for $Type {
            const NARROW: usize = $narrow;
        }
        #[cfg(target_pointer_width = "32")]
        const _: () = assert!(
            size_of::<$Type>() == $narrow,
            "need_on_32_bits has another size than this target: change it here"
        );
    )+ };
}
pub(crate) use stored;

stored! { f32: 4; u32: 4; u16: 2; i8: 1; usize: 4; }

/// The bytes of `count` values: buffers start on cache lines.
pub(crate) const fn bytes_of<T: Stored>(count: usize, pointers: Pointers) -> usize {
    let size = match pointers {
        Pointers::Here => size_of::<T>(),
        Pointers::Narrow => T::NARROW,
    };
    match times(count, size).checked_next_multiple_of(ALIGN) {
        Some(rounded) => rounded,
        None => usize::MAX,
    }
}

/// Makes a struct of buffers in a workspace. Of a buffer it names the type, the length and, where
/// the memory's old content will not do, the value that fills it; `parts` are other such structs
/// with the arguments of their functions.
macro_rules! workspace {
    (
        $(#[$meta:meta])*
        $vis:vis struct $Name:ident<$w:lifetime $(, $m:lifetime)?>($($arg:ident: $Arg:ty),+) {
            $($(#[$field_meta:meta])* $field:ident: [$Type:ty; $len:expr] $(= $value:expr)?,)*
        }
        $(parts {
            $($(#[$part_meta:meta])* $part:ident: $Part:ident($($part_arg:expr),*),)*
        })?
    ) => {
        $(#[$meta])*
        $vis struct $Name<$w $(, $m)?> {
            $($(#[$field_meta])* $vis $field: &$w mut [$Type],)*
            $($($(#[$part_meta])* $vis $part: $Part<$w>,)*)?
        }

        impl<$w $(, $m)?> $Name<$w $(, $m)?> {
            /// The bytes of all buffers.
            $vis const fn bytes(
                $($arg: $Arg,)+
                pointers: $crate::tensor::workspace::Pointers,
            ) -> usize {
                0usize
                    $(.saturating_add(
                        $crate::tensor::workspace::bytes_of::<$Type>($len, pointers)
                    ))*
                    $($(.saturating_add($Part::bytes($($part_arg,)* pointers)))*)?
            }

            /// Takes the buffers.
            $vis fn carve(
                w: &mut $crate::tensor::workspace::Workspace<$w>,
                $($arg: $Arg,)+
            ) -> Self {
                Self {
                    $($field: $crate::tensor::workspace::workspace!(@take w, $len $(, $value)?),)*
                    $($($part: $Part::carve(w $(, $part_arg)*),)*)?
                }
            }
        }
    };
    (@take $w:ident, $len:expr) => { $w.numbers($len) };
    (@take $w:ident, $len:expr, $value:expr) => { $w.values($len, $value) };
}
pub(crate) use workspace;

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy)]
    #[allow(dead_code, reason = "its bytes are looked at")]
    struct Padded {
        wide: u64,
        narrow: u8,
    }

    #[test]
    fn values_with_padding_leave_zeros_between_their_fields() {
        let mut lines = [crate::tensor::line::Line::ZERO; 2];
        let memory = bytemuck::cast_slice_mut::<_, u8>(&mut lines);
        memory.fill(0xaa);
        let mut workspace = Workspace::new(memory, 128).unwrap();
        workspace.values(4, Padded { wide: u64::MAX, narrow: 0xff });
        workspace.values(2, None::<Padded>);
        let bytes = bytemuck::cast_slice::<_, u8>(&lines);
        let left = bytes[..64 + 2 * size_of::<Option<Padded>>()].iter().filter(|&&b| b == 0xaa);
        assert_eq!(left.count(), 0, "{bytes:x?}");
        assert_eq!(bytes[..64].iter().filter(|&&byte| byte == 0xff).count(), 4 * 9);
    }
}
