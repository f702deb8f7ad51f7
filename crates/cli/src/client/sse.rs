//! Reads server-sent events: the `data:` of each block.

/// The longest block; our API sends none longer.
const MAX_BLOCK_BYTES: usize = 16 * 1024 * 1024;

/// Takes bytes as they arrive and returns the data of complete blocks.
#[derive(Debug, Default)]
pub struct Blocks {
    line: Vec<u8>,
    data: Vec<u8>,
}

/// A block was longer than any our API sends.
#[derive(Debug)]
pub struct TooLong;

impl Blocks {
    /// The data of the blocks that end in `bytes`.
    pub fn take_in(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLong> {
        let mut whole = vec![];
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
            } else if let Some(data) = self.end_line() {
                whole.push(data);
            }
            if self.line.len() + self.data.len() > MAX_BLOCK_BYTES {
                return Err(TooLong);
            }
        }
        Ok(whole)
    }

    /// Skips comments and other fields.
    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return (!data.is_empty()).then(|| String::from_utf8_lossy(&data).into_owned());
        }
        if let Some(data) = line.strip_prefix(b"data:") {
            if !self.data.is_empty() {
                self.data.push(b'\n');
            }
            self.data
                .extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_complete_however_the_bytes_arrive() {
        let stream =
            b": hello\n\nevent: commit\ndata: {\"a\":\ndata: 1}\r\n\r\nid: 7\ndata:x\n\ndata: unfinished\n";
        for size in [1, 2, 7, stream.len()] {
            let mut blocks = Blocks::default();
            let taken: Vec<String> = stream
                .chunks(size)
                .flat_map(|bytes| blocks.take_in(bytes).unwrap())
                .collect();
            assert_eq!(taken, ["{\"a\":\n1}", "x"], "in pieces of {size}");
        }
    }
}
