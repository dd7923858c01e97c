use std::io::{self, Read};

use crate::space::Space;

/// After so many bytes of a layer it is looked whether there is room for what they unpack to.
const LOOK: u64 = 256 << 10;
/// How many times as large as what is read what is written may be, for most layers.
const EXPANSION: u64 = 8;

/// A layer that is read only as long as there is room for its files.
pub(super) struct Roomy<'a, R> {
    layer: R,
    space: &'a Space,
    /// Bytes to be read before the next look.
    left: u64,
}

impl<'a, R> Roomy<'a, R> {
    pub(super) const fn new(layer: R, space: &'a Space) -> Self {
        Self {
            layer,
            space,
            left: 0,
        }
    }
}

impl<R: Read> Read for Roomy<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.space.ensure(LOOK * EXPANSION)?;
            self.left = LOOK;
        }
        let len = self.layer.read(buffer)?;
        self.left = self.left.saturating_sub(len as u64);
        Ok(len)
    }
}
