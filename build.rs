//! Lists `src/provider/adapters/*.rs`, sorted, as modules and a table of their `ENTRY`s.
#![expect(clippy::disallowed_methods, reason = "a build script has no World")]

use std::fmt::Write as _;
use std::{env, fs, io, path::Path};

fn main() -> io::Result<()> {
    let folder =
        Path::new(&env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?).join("src/provider/adapters");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut names = Vec::new();
    for file in fs::read_dir(&folder)? {
        if let Some(name) = file?.file_name().to_str().and_then(|name| name.strip_suffix(".rs")) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    let mut table = String::new();
    for name in &names {
        writeln!(table, "#[path = \"{}\"]\nmod {name};", folder.join(format!("{name}.rs")).display())
            .map_err(io::Error::other)?;
    }
    writeln!(table, "static ENTRIES: &[&Entry] = &[").map_err(io::Error::other)?;
    for name in &names {
        writeln!(table, "    &{name}::ENTRY,").map_err(io::Error::other)?;
    }
    writeln!(table, "];").map_err(io::Error::other)?;
    fs::write(Path::new(&env::var("OUT_DIR").map_err(io::Error::other)?).join("adapters.rs"), table)
}
