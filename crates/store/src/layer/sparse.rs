//! The maps by which archives say where the content of a sparse file goes.

use super::tar_read::{decimal, number};

/// A piece of a file that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Whether segments follow each other within the file and are just what is stored.
pub(super) fn is_sound(map: &[Segment], stored: u64, size: u64) -> bool {
    let mut end = 0u64;
    let mut sum = 0u64;
    for segment in map {
        if segment.offset < end {
            return false;
        }
        let Some(next) = segment.offset.checked_add(segment.length) else {
            return false;
        };
        end = next;
        sum += segment.length;
    }
    end <= size && sum == stored
}

/// Appends the segments of a part of an old GNU header: pairs of 12-byte numbers.
pub(super) fn old_gnu_segments(fields: &[u8], map: &mut Vec<Segment>) -> Option<()> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        map.push(Segment {
            offset: number(&pair[..12])?.try_into().ok()?,
            length: number(&pair[12..])?.try_into().ok()?,
        });
    }
    Some(())
}

/// What PAX records say of a sparse file: forms 0.0, 0.1 and 1.0.
#[derive(Default)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    major: Option<u64>,
    offset: Option<u64>,
    map: Option<Vec<Segment>>,
}

impl PaxSparse {
    /// Takes a record, whose key comes without its prefix.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => self.major = Some(decimal(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"numblocks" => self.map = Some(self.map.take().unwrap_or_default()),
            b"offset" => self.offset = Some(decimal(value)?),
            b"numbytes" => {
                let segment = Segment {
                    offset: self.offset.take()?,
                    length: decimal(value)?,
                };
                self.map.get_or_insert_default().push(segment);
            }
            b"map" => self.map = Some(pairs(value)?),
            _ => {}
        }
        Some(())
    }

    /// Whether the map lies in front of the content.
    pub(super) fn map_in_content(&self) -> bool {
        self.major == Some(1)
    }

    /// The map that the records gave.
    pub(super) fn map(&self) -> Option<Vec<Segment>> {
        self.map.clone()
    }
}

fn pairs(text: &[u8]) -> Option<Vec<Segment>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let numbers = text
        .split(|&byte| byte == b',')
        .map(decimal)
        .collect::<Option<Vec<_>>>()?;
    paired(&numbers)
}

fn paired(numbers: &[u64]) -> Option<Vec<Segment>> {
    let pairs = numbers.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    Some(
        pairs
            .map(|pair| Segment {
                offset: pair[0],
                length: pair[1],
            })
            .collect(),
    )
}

/// The map of form 1.0: decimal numbers in lines, first their count in pairs, padded to a block.
#[derive(Default)]
pub(super) struct MapText {
    line: Vec<u8>,
    pairs: Option<u64>,
    numbers: Vec<u64>,
}

impl MapText {
    /// Takes a block: the map if it is whole now, nothing if more is to come, or a fault.
    pub(super) fn push(&mut self, block: &[u8]) -> Option<Option<Vec<Segment>>> {
        for &byte in block {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let number = decimal(&self.line)?;
            self.line.clear();
            match self.pairs {
                None => self.pairs = Some(number),
                Some(_) => self.numbers.push(number),
            }
            if self.is_whole() {
                return Some(Some(paired(&self.numbers)?));
            }
        }
        // No number is as long as this; it is no map.
        (self.line.len() <= 20).then_some(None)
    }

    fn is_whole(&self) -> bool {
        self.pairs
            .is_some_and(|pairs| pairs.checked_mul(2) == Some(self.numbers.len() as u64))
    }
}
