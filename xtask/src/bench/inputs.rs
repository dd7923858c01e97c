//! What the workloads build: the same bytes on every machine.

use std::fs;
use std::io::Write;
use std::path::Path;

/// A small generator of numbers (xorshift64*), good enough to be incompressible.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// 20,000 files of 100 bytes to 20 kB in 1,400 directories.
pub(super) fn many_files(directory: &Path) -> std::io::Result<()> {
    let mut random = Random(1);
    let mut content = vec![0; 20_000];
    for number in 0..20_000 {
        let parent = directory.join(format!("d{}/e{}", number % 200, number % 7));
        fs::create_dir_all(&parent)?;
        let size = [100, 1000, 5000, 20_000][(random.next() % 4) as usize];
        random.fill(&mut content[..size]);
        fs::write(parent.join(format!("f{number}.txt")), &content[..size])?;
    }
    Ok(())
}

/// 700 MiB that cannot be compressed and 300 MB of text.
pub(super) fn big_files(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut random = Random(2);
    let mut block = vec![0; 1 << 20];
    let mut file = fs::File::create(directory.join("random.bin"))?;
    for _ in 0..700 {
        random.fill(&mut block);
        file.write_all(&block)?;
    }
    let words: Vec<Vec<u8>> = (0..5000)
        .map(|_| {
            let length = 3 + random.next() % 7;
            (0..length)
                .map(|_| b"abcdefghijklmnop "[(random.next() % 17) as usize])
                .collect()
        })
        .collect();
    let mut file = std::io::BufWriter::new(fs::File::create(directory.join("text.bin"))?);
    let mut written = 0;
    while written < 300_000_000 {
        let word = &words[(random.next() % 5000) as usize];
        file.write_all(word)?;
        file.write_all(b" ")?;
        written += word.len() + 1;
    }
    file.flush()
}
