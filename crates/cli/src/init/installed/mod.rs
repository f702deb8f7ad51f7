//! Finds programs that are installed but don't run, and models that they could serve: Reveille's own case is a backend that
//! is started when a request arrives.

mod models;
#[cfg(test)]
mod tests;

use super::{
    folders::{self, Skipped},
    found::{Found, Server, capped, name_for},
    gguf::Gguf,
    process::{Installed, Origin, Start, Unit},
};
use reveille_agent::child::find_program;
use reveille_domain::ModelName;
use std::{
    ffi::{OsStr, OsString},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

/// Programs in these folders are found by their name, whoever looks for them.
const USUAL_FOLDERS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];
/// Where packages and installers put units.
const UNIT_FOLDERS: [&str; 3] = [
    "etc/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
const OLLAMAS_UNIT: &str = "ollama.service";
/// Where Ollama's own unit keeps models.
const MODELS_OF_OLLAMAS_UNIT: &str = "usr/share/ollama/.ollama/models";
/// The most model files of a folder that become providers. Others can be named.
const MAX_FILES: usize = 4;
/// Variables that say where Hugging Face's cache is, and what lies between them and it.
const HUGGING_FACE: [(&str, &str); 3] = [
    ("HF_HUB_CACHE", ""),
    ("HUGGINGFACE_HUB_CACHE", ""),
    ("HF_HOME", "hub"),
];
/// Where programs and models are looked for.
pub struct Places<'a> {
    pub home: Option<PathBuf>,
    /// The folders of programs; `None` for this process's own.
    pub path: Option<OsString>,
    /// The file system.
    pub root: PathBuf,
    /// A variable of this process.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// Whether nothing has a port.
    pub is_free: &'a dyn Fn(u16) -> bool,
}

impl Places<'_> {
    /// Those of this process.
    pub fn own() -> Self {
        Places {
            home: std::env::home_dir(),
            path: None,
            root: "/".into(),
            variable: &|name| std::env::var_os(name).filter(|value| !value.is_empty()),
            is_free: &|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok(),
        }
    }

    fn in_home(&self, path: &str) -> PathBuf {
        let home = self.home.as_deref().unwrap_or(Path::new("/nonexistent"));
        home.join(path)
    }

    /// A program's name as a config should have it. An agent that a service manager starts has another `PATH` than a terminal.
    fn program(&self, name: &str) -> Option<String> {
        // A folder of `PATH` may be a relative one.
        let file = std::path::absolute(find_program(name, self.path.as_deref()).ok()?).ok()?;
        let is_usual = USUAL_FOLDERS
            .iter()
            .any(|folder| file.parent() == Some(Path::new(folder)));
        match file.to_str() {
            Some(_) if is_usual => Some(name.to_owned()),
            path => path.map(str::to_owned),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name)?.into_string().ok()
    }
}

/// What is installed and doesn't run, and what was left out of it.
pub struct Stopped {
    pub backends: Vec<Found>,
    /// Each a sentence for a person.
    pub remarks: Vec<String>,
}

/// Looks for programs and their models, and makes a backend of each that isn't `running`, on `ports` where they are free.
/// With `files`, llama.cpp serves those, and its folders aren't looked through.
pub fn look(places: &Places<'_>, running: &[Found], ports: &[u16], files: &[Gguf]) -> Stopped {
    let mut search = Search {
        places,
        running,
        ports: Ports {
            given: ports,
            taken: running.iter().map(|backend| backend.address.port()).collect(),
            is_free: places.is_free,
        },
        skipped: Skipped::default(),
        remarks: vec![],
        found: vec![],
    };
    search.ollama();
    search.llama_cpp(files);
    search.vllm();
    search.lm_studio();
    let mut remarks = search.skipped.0;
    remarks.extend(search.remarks);
    Stopped {
        backends: search.found,
        remarks,
    }
}

/// The ports that programs which don't run may get.
struct Ports<'a> {
    given: &'a [u16],
    taken: Vec<u16>,
    is_free: &'a dyn Fn(u16) -> bool,
}

impl Ports<'_> {
    /// This one, if it is among those that were given and nothing has it, or else the next that nothing has.
    fn next(&mut self, usual: u16) -> u16 {
        let free = |port: &u16| !self.taken.contains(port) && (self.is_free)(*port);
        let others = |port: &&u16| super::found::usual_at(**port).is_none();
        let given = self.given.contains(&usual);
        let first = if given { Some(usual) } else { None };
        let port = first
            .into_iter()
            .chain(self.given.iter().filter(others).copied())
            .chain(usual..)
            .find(free)
            .unwrap_or(usual);
        self.taken.push(port);
        port
    }
}

struct Search<'a> {
    places: &'a Places<'a>,
    running: &'a [Found],
    ports: Ports<'a>,
    skipped: Skipped,
    remarks: Vec<String>,
    found: Vec<Found>,
}

impl Search<'_> {
    fn runs(&self, server: Server) -> bool {
        self.running.iter().any(|backend| backend.server == server)
    }

    fn add(&mut self, name: String, server: Server, port: u16, models: Vec<ModelName>, how: Installed) {
        let (models, left_out) = capped(models);
        self.found.push(Found {
            left_out,
            name,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            server,
            models,
            needs_key: false,
            sleep_mode: false,
            model_path: None,
            in_memory: vec![],
            origin: Origin::Installed(how),
        });
    }

    /// The port of a server of which a machine has one; `None`, with a remark, if something has it. It may be that server, which
    /// wasn't looked for there.
    fn only_port(&mut self, server: Server, usual: u16) -> Option<u16> {
        if (self.places.is_free)(usual) {
            return Some(self.ports.next(usual));
        }
        self.remarks.push(format!(
            "{} is installed, but something else has its port {usual}: if that is {}, run `reveille init --ports {usual}`",
            server.label(),
            server.label()
        ));
        None
    }

    fn ollama(&mut self) {
        let Some(program) = self
            .places
            .program("ollama")
            .filter(|_| !self.runs(Server::Ollama))
        else {
            return;
        };
        let usual = self
            .places
            .variable("OLLAMA_HOST")
            .as_deref()
            .and_then(port_of)
            .unwrap_or(11434);
        let Some(port) = self.only_port(Server::Ollama, usual) else {
            return;
        };
        let folder = self.places.variable("OLLAMA_MODELS");
        let own = folder
            .clone()
            .map_or_else(|| self.places.in_home(".ollama/models"), PathBuf::from);
        let mut models = models::pulled(&own, &mut self.skipped);
        let unit = self.unit(OLLAMAS_UNIT);
        let mut how = Installed::serve(program, vec!["serve".to_owned()]);
        if let (Start::Serve { variables, .. }, Some(folder)) = (&mut how.start, folder) {
            variables.push(("OLLAMA_MODELS", folder));
        }
        match unit {
            Some(unit) if models.is_empty() => {
                models = models::pulled(&self.places.root.join(MODELS_OF_OLLAMAS_UNIT), &mut self.skipped);
                how.lacks = Some(format!(
                    "It is the systemd unit {OLLAMAS_UNIT}, which has models of its own. If the agent may start and stop it (by a \
                     polkit rule), uncomment this, with its models."
                ));
                how.start = Start::Unit(unit);
            }
            Some(_) => {
                how.note = Some(format!(
                    "The systemd unit {OLLAMAS_UNIT} would take its port, so keep it disabled."
                ));
            }
            None if models.is_empty() => {
                how.lacks = Some(
                    "It has no model yet: pull one (`ollama serve`, and `ollama pull qwen2.5:7b` beside it), name it here, and \
                     uncomment this."
                        .to_owned(),
                );
            }
            None => {}
        }
        if models.is_empty() {
            models = vec![example("qwen2.5:7b")];
        }
        self.add("ollama".to_owned(), Server::Ollama, port, models, how);
    }

    fn unit(&self, name: &str) -> Option<Unit> {
        let mut folders = UNIT_FOLDERS.iter().map(|folder| self.places.root.join(folder));
        folders.any(|folder| folder.join(name).is_file()).then(|| Unit {
            name: name.to_owned(),
            of_user: false,
        })
    }

    fn llama_cpp(&mut self, given: &[Gguf]) {
        let program = self.places.program("llama-server");
        let has_lms = self.places.lms().is_some();
        let files = match (given, &program) {
            ([], None) => return,
            ([], Some(_)) if self.runs(Server::LlamaCpp) => return,
            ([], Some(program)) => {
                // LM Studio serves its own models.
                let files = self.model_files(!has_lms);
                if files.is_empty() {
                    self.remarks.push(format!(
                        "`{program}` is installed, but no model file was found for it: name one, `reveille init MODEL.gguf`"
                    ));
                }
                files
            }
            (given, _) => given.to_vec(),
        };
        let count = files.len();
        let only = count == 1 && !self.runs(Server::LlamaCpp);
        for file in files {
            let path = file.path.display().to_string();
            let served = self
                .running
                .iter()
                .any(|backend| backend.model_path.as_deref() == Some(&path));
            if served {
                self.remarks.push(format!("{path} is served already"));
                continue;
            }
            let port = self.ports.next(8080);
            let name = match only {
                true => "llama-cpp".to_owned(),
                false => name_for("llama-cpp", &file.name),
            };
            let mut args = [
                "--model",
                &path,
                "--alias",
                file.name.as_str(),
                "--host",
                "127.0.0.1",
                "--port",
            ]
            .map(str::to_owned)
            .to_vec();
            args.push(port.to_string());
            if file.embeds {
                args.push("--embeddings".to_owned());
            }
            let mut how =
                Installed::serve(program.clone().unwrap_or_else(|| "llama-server".to_owned()), args);
            if count > 1 {
                how.note = Some(
                    "If it doesn't fit into memory beside the others, give each of them `exclusive = \"gpu\"`: then they take turns."
                        .to_owned(),
                );
            }
            if program.is_none() {
                how.lacks = Some(
                    "llama.cpp's server, `llama-server`, isn't in PATH: install it, or name it by its path, and uncomment this."
                        .to_owned(),
                );
            }
            if file.path.to_str().is_none() {
                how.lacks = Some("Its path isn't text, so no config can have it: rename it.".to_owned());
            }
            self.add(name, Server::LlamaCpp, port, vec![file.name], how);
        }
    }

    /// The model files that llama.cpp has downloaded, and those of LM Studio.
    fn model_files(&mut self, with_lm_studios: bool) -> Vec<Gguf> {
        let mut places = vec![(self.places.in_home(".cache/llama.cpp"), 0)];
        if let Some(folder) = self.places.variable("LLAMA_CACHE") {
            places[0].0 = folder.into();
        }
        if with_lm_studios {
            places.extend(LM_STUDIOS.map(|folder| (self.places.in_home(folder), 2)));
        }
        let mut found: Vec<Gguf> = vec![];
        for (folder, depth) in places {
            let mut files = folders::files(&folder, depth, &mut self.skipped);
            files.retain(|file| file.extension() == Some(OsStr::new("gguf")));
            let left = MAX_FILES - found.len();
            found.extend(files.iter().filter_map(|file| Gguf::read(file).ok()).take(left));
            if files.len() > MAX_FILES {
                self.remarks.push(format!(
                    "{} has {} model files: at most {MAX_FILES} were taken, others can be named (`reveille init MODEL.gguf …`)",
                    folder.display(),
                    files.len()
                ));
            }
        }
        found
    }

    fn vllm(&mut self) {
        let Some(program) = self.places.program("vllm").filter(|_| !self.runs(Server::Vllm)) else {
            return;
        };
        let from = HUGGING_FACE
            .iter()
            .find_map(|(name, below)| Some((*name, self.places.variable(name)?, *below)));
        let cache = match &from {
            Some((_, folder, below)) => Path::new(folder).join(below),
            None => self.places.in_home(".cache/huggingface/hub"),
        };
        let models = models::cached(&cache, &mut self.skipped);
        let port = self.ports.next(8000);
        let (model, others) = match models.split_first() {
            Some((model, others)) => (model.clone(), others),
            None => (example("Qwen/Qwen3-8B"), &[][..]),
        };
        let args = ["serve", model.as_str(), "--host", "127.0.0.1", "--port"].map(str::to_owned);
        let mut how = Installed::serve(program, [&args[..], &[port.to_string()]].concat());
        if let (Start::Serve { variables, .. }, Some((name, folder, _))) = (&mut how.start, from) {
            variables.push((name, folder));
        }
        if models.is_empty() {
            how.lacks = Some(format!(
                "No model for it was found in {}: name one, which vLLM will download, and uncomment this.",
                cache.display()
            ));
        }
        if !others.is_empty() {
            let others: Vec<_> = others
                .iter()
                .map(|model| format!("`{}`", model.as_str()))
                .collect();
            how.note = Some(format!("Hugging Face's cache also has {}.", others.join(", ")));
        }
        self.add("vllm".to_owned(), Server::Vllm, port, vec![model], how);
    }

    fn lm_studio(&mut self) {
        let has_models = || {
            LM_STUDIOS
                .iter()
                .any(|folder| self.places.in_home(folder).is_dir())
        };
        let lms = self.places.lms();
        if self.runs(Server::LmStudio) || lms.is_none() && !has_models() {
            return;
        }
        if lms.is_none()
            && self
                .found
                .iter()
                .any(|backend| backend.server == Server::LlamaCpp)
        {
            // Its models are served by llama.cpp.
            return;
        }
        let Some(port) = self.only_port(Server::LmStudio, 1234) else {
            return;
        };
        let how = Installed {
            start: Start::Lms(lms.clone().unwrap_or_else(|| "lms".to_owned())),
            lacks: lms.is_none().then(|| {
                "LM Studio's models are here, but its command, `lms`, isn't: run LM Studio once, and `reveille init --force` again."
                    .to_owned()
            }),
            note: Some("Its models are published once it has been awake while the agent runs: `reveille wake lm-studio` wakes it.".to_owned()),
        };
        self.add("lm-studio".to_owned(), Server::LmStudio, port, vec![], how);
    }
}

/// LM Studio's folders of models.
const LM_STUDIOS: [&str; 2] = [".lmstudio/models", ".cache/lm-studio/models"];

impl Places<'_> {
    /// LM Studio's command. Its installer puts it into a folder of its own, and not always into `PATH`.
    pub fn lms(&self) -> Option<String> {
        let own = self.in_home(".lmstudio/bin/lms");
        let own = own.is_file().then(|| own.to_str().map(str::to_owned));
        self.program("lms").or(own.flatten())
    }
}

/// A model for a person to replace.
fn example(name: &str) -> ModelName {
    ModelName::parse(name).expect("a legal name")
}

/// The port in an `OLLAMA_HOST`, such as `0.0.0.0:11434` or `http://localhost:11434/`.
fn port_of(host: &str) -> Option<u16> {
    let host = host.split_once("://").map_or(host, |(_, host)| host);
    let host = host.split('/').next()?;
    host.rsplit_once(':')?.1.parse().ok().filter(|port| *port > 0)
}
