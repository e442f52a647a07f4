//! Lines of text and whole numbers through semihosting. Not `core::fmt`, whose code is larger than the model's.

use cortex_m_semihosting::hio::{self, HostStream};

/// Something that can be part of a line.
pub trait Part {
    /// Writes it; what the host does not take is lost.
    fn write(&self, out: &mut HostStream);
}

impl Part for &str {
    fn write(&self, out: &mut HostStream) {
        self.as_bytes().write(out);
    }
}

impl Part for &[u8] {
    fn write(&self, out: &mut HostStream) {
        out.write_all(self).ok();
    }
}

impl Part for u32 {
    fn write(&self, out: &mut HostStream) {
        // u32::MAX has ten digits.
        let mut digits = [b'0'; 10];
        let mut rest = *self;
        let mut first = digits.len();
        for (i, digit) in digits.iter_mut().enumerate().rev() {
            *digit += (rest % 10) as u8;
            (rest, first) = (rest / 10, i);
            if rest == 0 {
                break;
            }
        }
        out.write_all(digits.get(first..).unwrap_or_default()).ok();
    }
}

/// A line of its parts.
pub fn print(parts: &[&dyn Part]) {
    if let Ok(mut out) = hio::hstdout() {
        parts.iter().for_each(|part| part.write(&mut out));
        out.write_all(b"\n").ok();
    }
}
