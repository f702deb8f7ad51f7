//! What the header of a GGUF file says of its model. Of the file, which may have hundreds of gigabytes, only the start is
//! read.

use reveille_domain::ModelName;
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// How much of a file is read. The keys that matter are the first ones; the vocabulary comes after them.
const MAX_HEADER_BYTES: u64 = 256 * 1024;
const MAGIC: &[u8] = b"GGUF";
/// Since version 2 lengths have 8 bytes. A number beyond these is one of a machine with the other order of bytes.
const VERSIONS: RangeInclusive<u32> = 2..=0xffff;

/// The types of values.
const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// Those of numbers and truth values, with their size in bytes.
const FIXED: [(u32, usize); 11] = [
    (0, 1),
    (1, 1),
    (2, 2),
    (3, 2),
    (4, 4),
    (5, 4),
    (6, 4),
    (7, 1),
    (10, 8),
    (11, 8),
    (12, 8),
];
/// The value of `general.file_type` for the usual quantizations.
const QUANTIZATIONS: [(u32, &str); 18] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K"),
    (11, "Q3_K_S"),
    (12, "Q3_K_M"),
    (13, "Q3_K_L"),
    (14, "Q4_K_S"),
    (15, "Q4_K_M"),
    (16, "Q5_K_S"),
    (17, "Q5_K_M"),
    (18, "Q6_K"),
    (30, "IQ4_XS"),
    (32, "BF16"),
];

/// A model file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gguf {
    /// Absolute.
    pub path: PathBuf,
    /// What clients may call it; never a path.
    pub name: ModelName,
    /// Whether it makes embeddings instead of text.
    pub embeds: bool,
}

impl Gguf {
    /// The model in a file, or why there is none that a server could load: part of a sentence about the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let path = std::path::absolute(path).map_err(|error| error.to_string())?;
        // A pipe would be waited for.
        let kind = fs::metadata(&path).map_err(|error| format!("can't be read: {error}"))?;
        if !kind.is_file() {
            return Err("isn't a file".to_owned());
        }
        let mut start = vec![];
        let file = File::open(&path).and_then(|file| file.take(MAX_HEADER_BYTES).read_to_end(&mut start));
        file.map_err(|error: io::Error| format!("can't be read: {error}"))?;
        let facts = Facts::of(&start).ok_or("isn't a GGUF file")?;
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let (stem, part) = without_part(&stem);
        if part.is_some_and(|part| part != 1) {
            return Err("is a later part of a model: give its first part".to_owned());
        }
        let text = |key: &str| facts.texts.get(key).map(String::as_str).unwrap_or_default();
        let architecture = text("general.architecture");
        match text("general.type") {
            "adapter" => return Err("is an adapter, not a model".to_owned()),
            "mmproj" => return Err("belongs to a model, but isn't one".to_owned()),
            _ if architecture == "clip" => return Err("belongs to a model, but isn't one".to_owned()),
            _ => {}
        }
        Ok(Self {
            name: name(stem, &facts),
            embeds: architecture.contains("bert"),
            path,
        })
    }
}

/// A large model's files end in `-00001-of-00003`.
fn without_part(stem: &str) -> (&str, Option<u32>) {
    let numbered = || {
        let (rest, of) = stem.rsplit_once("-of-")?;
        let (name, part) = rest.rsplit_once('-')?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        (digits(of) && digits(part)).then_some((name, part.parse().ok()))
    };
    numbered().unwrap_or((stem, None))
}

/// The file's own name, or the one in its header if that of the file says nothing.
fn name(stem: &str, facts: &Facts) -> ModelName {
    let lower = stem.to_ascii_lowercase();
    let says_nothing = ["model", "ggml-model", "gguf"].contains(&lower.as_str())
        || lower.starts_with("ggml-model-")
        || lower.starts_with("sha256-");
    let named = facts.texts.get("general.name").filter(|_| says_nothing);
    let named = named.map(|name| match facts.quantization {
        Some(quantization) if !name.contains(quantization) => format!("{name}-{quantization}"),
        _ => name.clone(),
    });
    let candidates = named.into_iter().chain([stem.to_owned()]);
    // Commas separate aliases.
    let legal = |text: String| {
        let words: Vec<_> = text.split_whitespace().collect();
        ModelName::parse(&words.join("-").replace(['/', '\\', ','], "-")).ok()
    };
    let fallback = || ModelName::parse("model").expect("a legal name");
    candidates.filter_map(legal).next().unwrap_or_else(fallback)
}

/// What a header says, as far as it was read.
#[derive(Debug, Default)]
struct Facts {
    texts: HashMap<String, String>,
    quantization: Option<&'static str>,
}

impl Facts {
    /// `None` if this isn't the start of a GGUF file.
    fn of(start: &[u8]) -> Option<Self> {
        let mut rest = Bytes(start.strip_prefix(MAGIC)?);
        let version = rest.number()?;
        if !VERSIONS.contains(&version) {
            return None;
        }
        let _tensors = rest.length()?;
        let keys = rest.length()?;
        let mut facts = Self::default();
        for _ in 0..keys {
            if facts.read_key(&mut rest).is_none() {
                break;
            }
        }
        Some(facts)
    }

    /// `None` where the part that was read ends, or can't be understood.
    fn read_key(&mut self, rest: &mut Bytes<'_>) -> Option<()> {
        let key = rest.text()?;
        match rest.number()? {
            STRING => {
                let value = rest.text()?;
                if key.starts_with("general.") {
                    self.texts.insert(key, value);
                }
            }
            ARRAY => {
                let kind = rest.number()?;
                let count = rest.length()?;
                if kind == STRING {
                    for _ in 0..count {
                        rest.text()?;
                    }
                } else {
                    rest.take(size_of_type(kind)?.checked_mul(count)?)?;
                }
            }
            kind => {
                let value = rest.take(size_of_type(kind)?)?;
                if key == "general.file_type" {
                    let value = u32::from_le_bytes(value.try_into().ok()?);
                    let known = QUANTIZATIONS.iter().find(|(number, _)| *number == value);
                    self.quantization = known.map(|(_, name)| *name);
                }
            }
        }
        Some(())
    }
}

fn size_of_type(kind: u32) -> Option<usize> {
    FIXED
        .iter()
        .find(|(number, _)| *number == kind)
        .map(|(_, size)| *size)
}

/// What is left of the start of a file.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(u64::from_le_bytes(self.take(8)?.try_into().ok()?)).ok()
    }

    fn text(&mut self) -> Option<String> {
        let length = self.length()?;
        Some(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The start of a file with these texts and the number of its quantization.
    pub fn header(texts: &[(&str, &str)], file_type: u32) -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let mut bytes = [MAGIC, &3_u32.to_le_bytes(), &1_u64.to_le_bytes()].concat();
        bytes.extend((texts.len() as u64 + 2).to_le_bytes());
        bytes.extend(text("tokenizer.ggml.scores"));
        bytes.extend([ARRAY, 6].map(u32::to_le_bytes).concat());
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend([0; 8]);
        for (key, value) in texts {
            bytes.extend([text(key), STRING.to_le_bytes().to_vec(), text(value)].concat());
        }
        bytes.extend([text("general.file_type"), 4_u32.to_le_bytes().to_vec()].concat());
        bytes.extend(file_type.to_le_bytes());
        bytes
    }

    fn read(name: &str, bytes: &[u8]) -> Result<Gguf, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        fs::write(&file, bytes).unwrap();
        Gguf::read(&file)
    }

    #[test]
    fn a_model_is_named_after_its_file_or_else_its_header_and_never_by_a_path() {
        let qwen = header(
            &[("general.architecture", "qwen3"), ("general.name", "Qwen3 8B")],
            15,
        );
        let odd = header(&[("general.name", "../Qwen,\n8B/x")], 999);
        for (file, bytes, name) in [
            ("Qwen3-8B-Q4_K_M.gguf", &qwen, "Qwen3-8B-Q4_K_M"),
            ("Qwen3-8B-00001-of-00003.gguf", &qwen, "Qwen3-8B"),
            ("model.gguf", &qwen, "Qwen3-8B-Q4_K_M"),
            ("ggml-model-f16.gguf", &qwen, "Qwen3-8B-Q4_K_M"),
            ("sha256-0123", &qwen, "Qwen3-8B-Q4_K_M"),
            ("model.gguf", &odd, "..-Qwen--8B-x"),
            ("a, b.gguf", &odd, "a--b"),
            ("\n.gguf", &odd, "model"),
        ] {
            assert_eq!(read(file, bytes).unwrap().name.as_str(), name, "{file}");
        }
    }

    #[test]
    fn what_no_server_could_load_is_told_from_a_model() {
        let of = |key: &str, value: &str| header(&[(key, value)], 1);
        let llama = of("general.architecture", "llama");
        assert!(
            read("a.gguf", &of("general.architecture", "nomic-bert"))
                .unwrap()
                .embeds
        );
        assert!(!read("a.gguf", &llama).unwrap().embeds);
        for (file, bytes, why) in [
            ("a.gguf", of("general.architecture", "clip"), "belongs to a model"),
            ("a.gguf", of("general.type", "adapter"), "is an adapter"),
            ("a-00002-of-00003.gguf", llama.clone(), "give its first part"),
            ("a.gguf", b"GGUF".to_vec(), "isn't a GGUF file"),
            (
                "a.gguf",
                [b"GGUF".as_slice(), &[0; 64]].concat(),
                "isn't a GGUF file",
            ),
            ("a.gguf", vec![], "isn't a GGUF file"),
        ] {
            assert!(read(file, &bytes).unwrap_err().contains(why), "{why}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Gguf::read(folder.path()).unwrap_err(), "isn't a file");
        assert!(
            Gguf::read(&folder.path().join("none"))
                .unwrap_err()
                .contains("No such file")
        );
    }

    #[test]
    fn a_header_that_lies_or_ends_early_costs_nothing() {
        let whole = header(&[("general.architecture", "llama"), ("general.name", "x")], 1);
        for length in 0..whole.len() {
            let _ = Facts::of(&whole[..length]);
        }
        for at in 8..whole.len() {
            let mut lies = whole.clone();
            lies[at] = 0xff;
            let _ = Facts::of(&lies);
        }
        let mut endless = [MAGIC, &3_u32.to_le_bytes()].concat();
        endless.extend([0xff; 64]);
        assert!(Facts::of(&endless).is_some_and(|facts| facts.texts.is_empty()));
    }

    #[test]
    fn a_file_of_200_gb_is_read_in_its_first_bytes_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Huge-Q8_0.gguf");
        fs::write(&path, header(&[("general.architecture", "llama")], 7)).unwrap();
        // Without blocks on the disk, but a reader of all of it would never end.
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(200 << 30)
            .unwrap();
        assert_eq!(Gguf::read(&path).unwrap().name.as_str(), "Huge-Q8_0");
    }
}
