//! What recipes and served backends print, kept in a file per provider on this machine only.
//!
//! The shims write it, so a restart of the agent loses nothing. Each file has one predecessor and both are bounded, so a command may
//! print as much and as fast as it likes: what can't be kept is counted and left out, and neither the command nor the agent waits for
//! the disk.

mod file;
mod reader;
mod text;
mod writer;

pub use file::{MAX_FILE_BYTES, OutputFile, kept};
pub use reader::Reader;
pub(crate) use text::{end_of, lines_of};
pub use writer::Writer;
