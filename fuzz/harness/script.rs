//! From an input to messages.

use bytes::Bytes;

/// The bit of a message's first byte that makes it a changed sample.
pub(crate) const SAMPLE: u8 = 0x80;
/// The bit of a message's first byte that has raw bytes sent without a frame.
const BARE: u8 = 0x40;
/// Most messages of one call.
const MESSAGES: usize = 8;

/// What is sent as the body of a call.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) body: Vec<u8>,
    /// Whether the request ends behind it, or stays open.
    pub(crate) ends: bool,
}

impl Script {
    /// Reads an input, behind the byte that chooses the method. Its parts:
    ///
    /// - `1ceeeesss`-like head with [`SAMPLE`]: the sample `head & 15`, with `head >> 4 & 7` edits behind it, each a position of
    ///   two bytes and a new byte
    /// - otherwise a length in one byte, and so many bytes: a message, or with [`BARE`] bytes without a frame
    pub(crate) fn parse(input: &[u8], samples: &[Bytes]) -> Self {
        let (ends, mut rest) = match input.split_last() {
            Some((last, rest)) => (!last.is_multiple_of(4), rest),
            None => (true, input),
        };
        let mut script = Self {
            ends,
            ..Self::default()
        };
        for _ in 0..MESSAGES {
            let Some((head, behind)) = rest.split_first() else {
                break;
            };
            rest = match head & SAMPLE {
                0 => script.raw(*head, behind),
                _ => script.sample(*head, behind, samples),
            };
        }
        script
    }

    /// Replaces what stands for something with something of the same length.
    pub(crate) fn replace(&mut self, placeholder: &str, text: &str) {
        if placeholder.len() != text.len() {
            return;
        }
        let mut at = 0;
        while let Some(window) = self.body.get_mut(at..at + text.len()) {
            if window == placeholder.as_bytes() {
                window.copy_from_slice(text.as_bytes());
            }
            at += 1;
        }
    }

    fn raw<'a>(&mut self, head: u8, input: &'a [u8]) -> &'a [u8] {
        let Some((length, input)) = input.split_first() else {
            return input;
        };
        let (content, rest) = input.split_at(usize::from(*length).min(input.len()));
        match head & BARE {
            0 => self.message(content),
            _ => self.body.extend_from_slice(content),
        }
        rest
    }

    fn sample<'a>(&mut self, head: u8, input: &'a [u8], samples: &[Bytes]) -> &'a [u8] {
        let chosen = usize::from(head & 15) % samples.len().max(1);
        let mut content = samples
            .get(chosen)
            .map(|sample| sample.to_vec())
            .unwrap_or_default();
        let edits = usize::from(head >> 4 & 7) * 3;
        let (edits, rest) = input.split_at(edits.min(input.len()));
        for edit in edits.as_chunks::<3>().0 {
            let position = usize::from(u16::from_le_bytes([edit[0], edit[1]]));
            if !content.is_empty() {
                let position = position % content.len();
                content[position] = edit[2];
            }
        }
        self.message(&content);
        rest
    }

    /// A message as gRPC frames it.
    fn message(&mut self, content: &[u8]) {
        self.body.push(0);
        self.body
            .extend_from_slice(&(content.len() as u32).to_be_bytes());
        self.body.extend_from_slice(content);
    }
}
