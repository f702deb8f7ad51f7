//! What the schema says of defaults and bounds, held against the agent's own reader of config files.

use super::keys::{Bound, Key, SECTIONS, Section};
use reveille_agent::config::Config;

/// The least config in which a key of a section may stand: the key is written below it.
fn around(section: &Section, key: &Key) -> String {
    let provider = "[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\n";
    let (wakes, sleeps) = ("[provider.wake]\ntype", "[provider.sleep]\ntype");
    let woken = format!("{provider}wake = {{ type = \"http\", url = \"http://127.0.0.1:1\" }}\n");
    let serves = ["stop_grace"].contains(&key.name.as_str());
    match section.name {
        "provider" if in_a_group(key) => {
            let served = "wake = { type = \"command\", command = \"true\", run = \"serve\" }";
            format!("{provider}{served}\nexclusive = \"gpu0\"\n")
        }
        "agent" => "[agent]\n".to_owned(),
        "provider" => provider.to_owned(),
        "models" => format!("{provider}[[provider.models]]\nid = \"m\"\n"),
        "probe" => format!("{provider}[provider.probe]\n"),
        "wake" => format!(
            "{provider}[provider.wake]\ntype = \"http\"\nurl = \"http://127.0.0.1:1\"\ntimeout = \"1ms\"\n"
        ),
        "sleep" if key.name == "keep_warm" => format!(
            "{woken}[provider.sleep]\nidle_after = \"1m\"\n{}",
            "type = \"http\"\nurl = \"http://127.0.0.1:1\"\n"
        ),
        "sleep" => format!("{woken}{sleeps} = \"http\"\nurl = \"http://127.0.0.1:1\"\n"),
        "http" => format!("{provider}{sleeps} = \"http\"\nurl = \"http://127.0.0.1:1\"\n"),
        "command" if serves => {
            format!("{provider}[provider.wake]\ntype = \"command\"\ncommand = \"true\"\nrun = \"serve\"\n")
        }
        "command" => format!("{provider}{sleeps} = \"command\"\ncommand = \"true\"\n"),
        "wol" if key.name == "repeats" => {
            format!("{provider}{wakes} = \"wol\"\nmac = \"00:11:22:33:44:55\"\ninterval = \"1ms\"\n")
        }
        "wol" => format!("{provider}{wakes} = \"wol\"\nmac = \"00:11:22:33:44:55\"\n"),
        "tcp" => format!("{provider}{wakes} = \"tcp\"\naddress = \"127.0.0.1:1\"\n"),
        "verify" => format!(
            "{provider}{wakes} = \"tcp\"\naddress = \"127.0.0.1:1\"\n[provider.wake.verify]\nmodel = \"m\"\n"
        ),
        other => panic!("no config for {other}"),
    }
}

/// Whether the key says something in a group only.
fn in_a_group(key: &Key) -> bool {
    ["persistent", "max_group_wait"].contains(&key.name.as_str())
}

fn read(section: &Section, key: &Key, value: &str) -> Result<Config, String> {
    // What the key stands for elsewhere in the file is taken out first.
    let around = around(section, key);
    let lines = around
        .lines()
        .filter(|line| !line.starts_with(&format!("{} = ", key.name)));
    let file = format!(
        "{}\n{} = {value}\n",
        lines.collect::<Vec<_>>().join("\n"),
        key.name
    );
    let read = Config::parse(&file, "c.toml", &|_| None);
    read.map_err(|error| format!("{error}\n{file}"))
}

fn refuses(section: &Section, key: &Key, value: &str, of: &Bound) {
    let shown: String = value.chars().take(80).collect();
    assert!(
        read(section, key, value).is_err(),
        "{}.{} = {shown} is beyond {of:?}",
        section.name,
        key.name
    );
}

fn takes(section: &Section, key: &Key, value: &str) {
    if let Err(error) = read(section, key, value) {
        panic!(
            "{}: {}",
            section.name,
            error.chars().take(400).collect::<String>()
        );
    }
}

/// That many entries of the key, as TOML.
fn entries(key: &Key, many: u64) -> String {
    let items = |item: fn(u64) -> String| (0..many).map(item).collect::<Vec<_>>().join(", ");
    match key.name.as_str() {
        "accept" => format!("[{}]", items(|n| (300 + n).to_string())),
        "quiet_hours" | "keep_warm" => format!(
            "[{}]",
            items(|n| format!("\"{:02}:{:02}-24:00\"", n / 60, n % 60))
        ),
        "headers" | "env" => format!("{{ {} }}", items(|n| format!("a{n} = \"x\""))),
        _ => format!("[{}]", items(|n| format!("\"A{n}\""))),
    }
}

#[test]
fn a_file_without_a_key_has_the_default_that_the_schema_names() {
    let mut seen = 0;
    for section in SECTIONS {
        for key in section.keys() {
            let Some(default) = key.default() else { continue };
            let without = Config::parse(&around(&section, &key), "c.toml", &|_| None).expect("legal");
            let with = read(&section, &key, &default).expect("legal");
            assert_eq!(with, without, "{}.{} = {default}", section.name, key.name);
            seen += 1;
        }
    }
    assert!(seen >= 9, "only {seen} defaults were tried");
}

#[test]
fn each_bound_that_the_schema_names_is_the_last_value_that_the_agent_takes() {
    let mut seen = 0;
    for section in SECTIONS {
        for key in section.keys() {
            let Some(bound) = key.bound() else { continue };
            seen += 1;
            match &bound {
                Bound::Duration { min, max } => {
                    // Of a wake, all the time-outs of its parts are counted together, the wait for its group included.
                    if !["wake", "wol", "tcp", "verify"].contains(&section.name) && !in_a_group(&key) {
                        takes(&section, &key, &format!("\"{max}\""));
                    }
                    refuses(&section, &key, &format!("\"{max} 1ms\""), &bound);
                    match min {
                        None => refuses(&section, &key, "\"0s\"", &bound),
                        Some(min) => {
                            takes(&section, &key, &format!("\"{min}\""));
                            let below = min.strip_suffix("ms").and_then(|min| min.parse::<u64>().ok());
                            let below = below.expect("milliseconds") - 1;
                            refuses(&section, &key, &format!("\"{below}ms\""), &bound);
                        }
                    }
                }
                Bound::Bytes { min, max } => {
                    let text =
                        |bytes: u64| format!("{:?}", "x".repeat(usize::try_from(bytes).expect("it fits")));
                    takes(&section, &key, &text(*max));
                    refuses(&section, &key, &text(max + 1), &bound);
                    if *min > 0 {
                        takes(&section, &key, &text(*min));
                        refuses(&section, &key, &text(min - 1), &bound);
                    }
                }
                Bound::Entries { min, max } => {
                    takes(&section, &key, &entries(&key, *max));
                    refuses(&section, &key, &entries(&key, max + 1), &bound);
                    if *min > 0 {
                        takes(&section, &key, &entries(&key, *min));
                        refuses(&section, &key, &entries(&key, min - 1), &bound);
                    }
                }
                Bound::Integer { min, max } => {
                    for legal in [min, max] {
                        takes(&section, &key, &legal.to_string());
                    }
                    refuses(&section, &key, &(max + 1).to_string(), &bound);
                    refuses(
                        &section,
                        &key,
                        &min.checked_sub(1).map_or("-1".to_owned(), |n| n.to_string()),
                        &bound,
                    );
                }
                Bound::OneOf(_) => refuses(&section, &key, "\"nonsense\"", &bound),
            }
        }
    }
    assert!(seen >= 15, "only {seen} bounds were tried");
}
