use std::io::{self, Read, Write};

use sha2::Digest as _;

use crate::{Algorithm, Digest, Repr};

/// Digests a stream of bytes.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// An empty hasher.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha384 => State::Sha384(sha2::Sha384::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// An empty SHA-256 hasher.
    pub fn sha256() -> Self {
        Self::new(Algorithm::Sha256)
    }

    /// Feeds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha384(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of all that was fed.
    pub fn finish(self) -> Digest {
        Digest(match self.0 {
            State::Sha256(state) => Repr::Sha256(state.finalize().into()),
            State::Sha384(state) => Repr::Sha384(Box::new(state.finalize().into())),
            State::Sha512(state) => Repr::Sha512(Box::new(state.finalize().into())),
        })
    }
}

/// Passes reads through and digests what was read.
pub struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
    length: u64,
}

impl<R: Read> HashingReader<R> {
    /// Wraps `inner`.
    pub fn new(inner: R, algorithm: Algorithm) -> Self {
        Self {
            inner,
            hasher: Hasher::new(algorithm),
            length: 0,
        }
    }

    /// The reader, the digest of what was read, and how many bytes that was.
    pub fn finish(self) -> (R, Digest, u64) {
        (self.inner, self.hasher.finish(), self.length)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.length += count as u64;
        Ok(count)
    }
}

/// Passes writes through and digests what was written.
pub struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    length: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Wraps `inner`.
    pub fn new(inner: W, algorithm: Algorithm) -> Self {
        Self {
            inner,
            hasher: Hasher::new(algorithm),
            length: 0,
        }
    }

    /// The writer, the digest of what was written, and how many bytes that was.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.length)
    }

    /// The writer below.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.inner
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_and_writer_agree_with_the_whole() {
        let content = b"some content of no special length";
        let mut reader = HashingReader::new(&content[..], Algorithm::Sha256);
        let mut writer = HashingWriter::new(Vec::new(), Algorithm::Sha256);
        let copied = io::copy(&mut reader, &mut writer).unwrap();
        let (_, read, read_length) = reader.finish();
        let (bytes, written, written_length) = writer.finish();
        assert_eq!((read_length, written_length), (copied, copied));
        assert_eq!(bytes, content);
        assert_eq!(read, written);
        assert_eq!(read, Digest::sha256_of(content));
    }
}
