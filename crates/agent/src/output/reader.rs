//! Reads what is kept, and what is added to it.

use super::file::{MAX_FILE_BYTES, OutputFile};
use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// More than a file may have.
const MAX_READ_BYTES: u64 = 4 * MAX_FILE_BYTES;

/// Reads the file of a provider, and goes on where it was replaced.
#[derive(Debug)]
pub struct Reader {
    output: OutputFile,
    current: Option<File>,
    /// How much of it was read.
    read: u64,
    /// A line that has only begun.
    begun: Vec<u8>,
}

impl Reader {
    #[must_use]
    pub const fn new(output: OutputFile) -> Self {
        Self {
            output,
            current: None,
            read: 0,
            begun: vec![],
        }
    }

    /// The lines that came since the last time: at first all that are kept.
    ///
    /// # Errors
    /// When they can't be read, except if nothing is kept.
    pub fn more(&mut self) -> io::Result<Vec<String>> {
        let mut text = std::mem::take(&mut self.begun);
        self.read_current(&mut text)?;
        let found = open(&self.output.path())?;
        let is_new = match (&self.current, &found) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(own), Some(found)) => id(own)? != id(found)?,
        };
        if is_new {
            // Written to until it was replaced.
            self.read_current(&mut text)?;
            let older = open(&self.output.older())?;
            let known = [self.current.as_ref(), found.as_ref()];
            let known: Vec<_> = known.into_iter().flatten().map(id).collect::<Result<_, _>>()?;
            if let Some(mut older) = older
                && !known.contains(&id(&older)?)
            {
                read(&mut older, &mut text)?;
            }
            (self.current, self.read) = (found, 0);
            self.read_current(&mut text)?;
        }
        let end = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        self.begun = text.split_off(end);
        Ok(String::from_utf8_lossy(&text)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    fn read_current(&mut self, text: &mut Vec<u8>) -> io::Result<()> {
        let Some(file) = &mut self.current else {
            return Ok(());
        };
        let bytes = file.metadata()?.len();
        if bytes < self.read {
            // Part of a line was taken back that could not be written whole.
            io::Seek::seek(file, io::SeekFrom::Start(bytes))?;
            let taken_back = usize::try_from(self.read - bytes).unwrap_or(usize::MAX);
            text.truncate(text.len().saturating_sub(taken_back));
            self.read = bytes;
        }
        self.read += read(file, text)?;
        Ok(())
    }
}

fn read(file: &mut File, text: &mut Vec<u8>) -> io::Result<u64> {
    let bytes = file.take(MAX_READ_BYTES).read_to_end(text)?;
    Ok(bytes as u64)
}

fn id(file: &File) -> io::Result<(u64, u64)> {
    let found = file.metadata()?;
    Ok((found.dev(), found.ino()))
}

/// A file, if there is one. Nobody knows when a pipe has something to read.
fn open(path: &Path) -> io::Result<Option<File>> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(io::Error::new(ErrorKind::InvalidInput, "it isn't a file")),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_dir::StateDir;
    use reveille_domain::{AgentName, ProviderId, ProviderName};

    #[test]
    fn every_line_is_read_once_and_in_order_while_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (agent, provider) = (
            AgentName::parse("box").unwrap(),
            ProviderName::parse("p").unwrap(),
        );
        let state = StateDir::new(folder.path().to_owned());
        let file = OutputFile::of(&state, &ProviderId::new(agent, provider));
        let mut reader = Reader::new(file.clone());
        assert_eq!(reader.more().unwrap(), [""; 0]);
        let (mut seen, mut written) = (vec![], vec![]);
        for block in 0..300 {
            let lines: Vec<String> = (0..100)
                .map(|line| format!("{block}.{line} {}", "x".repeat(200)))
                .collect();
            file.append((lines.join("\n") + "\n").as_bytes()).unwrap();
            written.extend(lines);
            // Between two looks the file is replaced at most twice.
            if block % 70 == 0 {
                seen.extend(reader.more().unwrap());
            }
        }
        seen.extend(reader.more().unwrap());
        assert_eq!(seen.len(), written.len());
        assert!(seen == written);
        let all = Reader::new(file.clone()).more().unwrap();
        assert!(all.len() > 5000 && written.ends_with(&all), "{}", all.len());
    }

    #[test]
    fn a_line_is_read_when_it_is_whole_and_one_that_was_taken_back_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (agent, provider) = (
            AgentName::parse("box").unwrap(),
            ProviderName::parse("p").unwrap(),
        );
        let state = StateDir::new(folder.path().to_owned());
        let file = OutputFile::of(&state, &ProviderId::new(agent, provider));
        let mut reader = Reader::new(file.clone());
        file.append(b"one\nhalf").unwrap();
        assert_eq!(reader.more().unwrap(), ["one"]);
        File::options()
            .write(true)
            .open(file.path())
            .unwrap()
            .set_len(4)
            .unwrap();
        assert_eq!(reader.more().unwrap(), [""; 0]);
        file.append(b"two\n").unwrap();
        assert_eq!(reader.more().unwrap(), ["two"]);

        // Taken back while it is read.
        file.append(b"three\nha").unwrap();
        let mut text = vec![];
        reader.read_current(&mut text).unwrap();
        let open = File::options().write(true).open(file.path()).unwrap();
        open.set_len(14).unwrap();
        reader.read_current(&mut text).unwrap();
        assert_eq!(text, b"three\n");
    }
}
