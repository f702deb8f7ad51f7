//! The target of an export. A file gets its final name only when it is complete and on disk.

use anyhow::Context;
use std::{
    fs::{self, File},
    io::{self, BufWriter, Stdout, Write},
    path::{Path, PathBuf},
};

/// Standard output or a file.
pub enum Output {
    Standard(BufWriter<Stdout>),
    File(BufWriter<File>, Pending),
}

/// A file under a temporary name until it is complete; removed if it never is.
pub struct Pending {
    here: PathBuf,
    place: PathBuf,
    done: bool,
}

impl Output {
    pub fn open(place: Option<&Path>) -> anyhow::Result<Self> {
        let Some(place) = place else {
            return Ok(Self::Standard(BufWriter::new(io::stdout())));
        };
        let name = place.file_name().context("the path has no file name")?;
        let here = format!(".{}.{}.partial", name.to_string_lossy(), std::process::id());
        let here = place.with_file_name(here);
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&here)
            .with_context(|| format!("can't write {}", place.display()))?;
        let pending = Pending {
            here,
            place: place.to_owned(),
            done: false,
        };
        Ok(Self::File(BufWriter::new(file), pending))
    }

    /// Everything is written: gives the file its name.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Self::Standard(mut out) => out.flush(),
            Self::File(out, mut pending) => {
                out.into_inner()
                    .map_err(io::IntoInnerError::into_error)?
                    .sync_all()?;
                fs::rename(&pending.here, &pending.place)?;
                pending.done = true;
                let folder = pending.place.parent().filter(|folder| *folder != Path::new(""));
                File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard(out) => out.write(bytes),
            Self::File(out, _) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(out) => out.flush(),
            Self::File(out, _) => out.flush(),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.done {
            // It may already be gone.
            let _ = fs::remove_file(&self.here);
        }
    }
}
