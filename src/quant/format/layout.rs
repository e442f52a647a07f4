//! The orders in which codes of 4 bits stand in their bytes.

/// How NF4 codes are ordered in their bytes. The number is stored in archives; a permutation, so
/// back and forth is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Layout {
    /// As bitsandbytes: weights in order, the first of two in the high nibble. Also the layout of
    /// every other format.
    Sequential = 0,
    /// Groups of 64 weights in 32 bytes: weight i in the low nibble of byte i, weight i + 32 in its
    /// high nibble, so that one vector load and one mask give 32 neighbours. Only for rows that
    /// are whole groups.
    Split64 = 1,
}

impl Layout {
    /// The layout with this stored number.
    pub const fn from_stored(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Sequential),
            1 => Some(Self::Split64),
            _ => None,
        }
    }

    /// Can a matrix with rows of `cols` weights and blocks of `block` have this layout?
    pub const fn allows(self, cols: usize, block: usize) -> bool {
        match self {
            Self::Sequential => true,
            Self::Split64 => cols.is_multiple_of(64) && block.is_multiple_of(64),
        }
    }

    /// Where the code of weight `index` is: (byte, is it the high nibble?).
    #[inline]
    pub const fn place(self, index: usize) -> (usize, bool) {
        match self {
            Self::Sequential => (index / 2, index.is_multiple_of(2)),
            Self::Split64 => (index / 64 * 32 + index % 32, index % 64 >= 32),
        }
    }

    /// Sets the code of weight `index`, so far 0.
    #[cfg(feature = "alloc")]
    pub(super) fn put(self, codes: &mut [u8], index: usize, code: u8) {
        let (byte, high) = self.place(index);
        codes[byte] |= if high { code << 4 } else { code };
    }
}

/// The codes of `count` weights in another order.
#[cfg(feature = "alloc")]
pub(crate) fn reorder(codes: &[u8], count: usize, from: Layout, to: Layout) -> alloc::vec::Vec<u8> {
    let mut out = alloc::vec![0u8; codes.len()];
    for index in 0..count {
        let (byte, high) = from.place(index);
        to.put(&mut out, index, if high { codes[byte] >> 4 } else { codes[byte] & 15 });
    }
    if !count.is_multiple_of(2) {
        out[count / 2] |= codes[count / 2] & 15;
    }
    out
}
