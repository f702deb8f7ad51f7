//! Compares the schema's keys, defaults and bounds with the agent's reader of config files.

use super::keys::{Bound, Key, SECTIONS, Section, Unit};
use reveille_agent::config::Config;

/// The smallest config that a key of a section can be appended to.
fn around(section: &Section, key: &Key) -> String {
    let provider = "[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\n";
    let (wakes, sleeps) = ("[provider.wake]\ntype", "[provider.sleep]\ntype");
    let woken = format!("{provider}wake = {{ type = \"http\", url = \"http://127.0.0.1:1\" }}\n");
    let serves = ["end", "stop_grace"].contains(&key.name.as_str());
    match section.0 {
        "provider" if in_a_group(key) => {
            let served = "wake = { type = \"command\", command = \"true\", run = \"serve\" }";
            format!("{provider}{served}\nexclusive = \"gpu0\"\n")
        }
        "agent" => "[agent]\n".to_owned(),
        "provider" => provider.to_owned(),
        "model" => format!("{provider}[[provider.models]]\nid = \"m\"\n"),
        "preset" => format!("{provider}[[preset]]\nname = \"bot\"\nmodel = \"m\"\nsystem = \"Be brief.\"\n"),
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

/// Whether the key is allowed only in a group.
fn in_a_group(key: &Key) -> bool {
    ["persistent", "max_group_wait"].contains(&key.name.as_str())
}

fn read(section: &Section, key: &Key, value: &str) -> Result<Config, String> {
    // An earlier line of the same table with the same key goes first.
    let around = around(section, key);
    let all: Vec<_> = around.lines().collect();
    let begins = all.iter().rposition(|line| line.starts_with('['));
    let begins = begins.unwrap_or_default();
    let lines = all.into_iter().enumerate();
    let lines = lines
        .filter(|(place, line)| *place < begins || !line.starts_with(&format!("{} = ", key.name)))
        .map(|(_, line)| line);
    let file = format!(
        "{}\n{} = {value}\n",
        lines.collect::<Vec<_>>().join("\n"),
        key.name
    );
    let read = Config::parse(&file, "c.toml", &|_| None);
    read.map_err(|error| format!("{error}\n{file}"))
}

fn assert_refused(section: &Section, key: &Key, value: &str, of: &Bound) {
    let shown: String = value.chars().take(80).collect();
    assert!(
        read(section, key, value).is_err(),
        "{}.{} = {shown} is beyond {of:?}",
        section.0,
        key.name
    );
}

fn assert_accepted(section: &Section, key: &Key, value: &str) {
    if let Err(error) = read(section, key, value) {
        panic!("{}: {}", section.0, error.chars().take(400).collect::<String>());
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
        "extra_paths" => format!("[{}]", items(|n| format!("\"/a{n}\""))),
        "headers" | "env" | "parameters" | "pinned" => {
            format!("{{ {} }}", items(|n| format!("a{n} = \"x\"")))
        }
        _ => format!("[{}]", items(|n| format!("\"A{n}\""))),
    }
}

/// The keys that the reader knows in the table at the end of a config.
fn known_at_the_end(config: &str) -> Vec<String> {
    let refused = Config::parse(&format!("{config}nonsense = 1\n"), "c.toml", &|_| None);
    let complaint = refused.expect_err("an unknown key").to_string();
    let (_, known) = complaint
        .split_once("known here: ")
        .unwrap_or_else(|| panic!("{complaint}"));
    known.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_schema_has_the_keys_that_the_agent_reads_and_no_others() {
    // A recipe's table has the keys of its only step, too.
    const RECIPES: [&str; 6] = ["wake", "sleep", "http", "command", "wol", "tcp"];
    for section in SECTIONS {
        let shares_its_table = |other: &Section| {
            other.0 == section.0 || [section.0, other.0].iter().all(|name| RECIPES.contains(name))
        };
        let mut in_schema: Vec<_> = SECTIONS
            .iter()
            .filter(|other| shares_its_table(other))
            .flat_map(Section::keys)
            .collect();
        in_schema.extend(section.keys());
        for key in section.keys() {
            let known = known_at_the_end(&around(&section, &key));
            assert!(
                known.contains(&key.name),
                "{}.{} is only in the schema",
                section.0,
                key.name
            );
            for name in known {
                let listed =
                    ["type", "step"].contains(&name.as_str()) || in_schema.iter().any(|key| key.name == name);
                assert!(listed, "{}.{name} isn't in the schema", section.0);
            }
        }
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
            assert_eq!(with, without, "{}.{} = {default}", section.0, key.name);
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
                    // A wake's time-outs count together, the wait for its group included.
                    if !["wake", "wol", "tcp", "verify"].contains(&section.0) && !in_a_group(&key) {
                        assert_accepted(&section, &key, &format!("\"{max}\""));
                    }
                    assert_refused(&section, &key, &format!("\"{max} 1ms\""), &bound);
                    match min {
                        None => assert_refused(&section, &key, "\"0s\"", &bound),
                        Some(min) => {
                            assert_accepted(&section, &key, &format!("\"{min}\""));
                            let below = min.strip_suffix("ms").and_then(|min| min.parse::<u64>().ok());
                            let below = below.expect("milliseconds") - 1;
                            assert_refused(&section, &key, &format!("\"{below}ms\""), &bound);
                        }
                    }
                }
                Bound::Number { min, max, of } => {
                    let value = |number: u64| match of {
                        Unit::Bytes => format!("{:?}", "x".repeat(usize::try_from(number).expect("it fits"))),
                        Unit::Entries => entries(&key, number),
                        Unit::Integer => number.to_string(),
                    };
                    assert_accepted(&section, &key, &value(*max));
                    assert_refused(&section, &key, &value(max + 1), &bound);
                    if *min > 0 || *of == Unit::Integer {
                        assert_accepted(&section, &key, &value(*min));
                        let below = min.checked_sub(1).map_or_else(|| "-1".to_owned(), value);
                        assert_refused(&section, &key, &below, &bound);
                    }
                }
                Bound::OneOf(_) => assert_refused(&section, &key, "\"nonsense\"", &bound),
            }
        }
    }
    assert!(seen >= 15, "only {seen} bounds were tried");
}

#[test]
fn a_mistake_in_each_key_of_a_table_is_told_at_once() {
    for section in SECTIONS {
        let wake = |kind: &str| format!("[[provider]]\n[provider.wake]\ntype = \"{kind}\"\n");
        let table = match section.0 {
            "agent" => "[agent]\n".to_owned(),
            "provider" => "[[provider]]\n".to_owned(),
            "preset" => "[[preset]]\n".to_owned(),
            "model" => "[[provider]]\n[[provider.models]]\n".to_owned(),
            "verify" => format!("{}[provider.wake.verify]\n", wake("tcp")),
            kind @ ("http" | "command" | "wol" | "tcp") => wake(kind),
            other => format!("[[provider]]\n[provider.{other}]\n"),
        };
        // No key takes a date.
        let keys = section.keys();
        let lines = keys.iter().map(|key| format!("{} = 2020-01-01\n", key.name));
        let file = table.clone() + &lines.collect::<String>();
        let error = Config::parse(&file, "c.toml", &|_| None).expect_err("mistakes");
        let all: Vec<_> = std::iter::once(&error).chain(&error.others).collect();
        for (place, key) in keys.iter().enumerate() {
            let line = table.lines().count() + place + 1;
            let is_told = all.iter().any(|error| error.line == Some(line));
            assert!(is_told, "{}.{} isn't in:\n{error}", section.0, key.name);
        }
    }
}
