//! `lane init`: writes a commented spec to start from.

use std::path::PathBuf;

use clap::Args;

use super::Context;
use crate::error::{Failure, Kind};
use crate::provider;
use crate::spec::Name;
use crate::world::fs;

/// Write a commented spec to start from; never overwrites a file.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The file to write.
    #[arg(value_name = "SPEC", default_value = "lane.yaml")]
    path: PathBuf,
    /// The provider it is for.
    #[arg(long, default_value = "nspawn", value_parser = clap::builder::PossibleValuesParser::new(provider::entries().iter().map(|entry| entry.name)))]
    provider: String,
}

pub(super) fn run(context: &Context, args: &InitArgs) -> Result<u8, Failure> {
    let path = context.world.cwd().join(&args.path);
    if fs::exists(&path) {
        return Err(Failure::new(Kind::Usage, format!("{} is there already", path.display()))
            .hint("name another file, or remove this one"));
    }
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("lane");
    let name = if Name::new(stem).is_ok() { stem } else { "lane" };
    let Some(entry) = provider::by_name(&args.provider) else {
        return Err(Failure::new(Kind::Usage, format!("no provider `{}`", args.provider)));
    };
    let text = template(name, entry);
    fs::write_atomic(&path, text.as_bytes(), fs::Mode::Public).map_err(|error| {
        Failure::new(Kind::Unexpected, format!("{} cannot be written: {error}", path.display()))
            .hint("its folder has to be there and writable")
    })?;
    context.ui.line(&format!(
        "Wrote {}. `lane plan {}` shows what it would do.",
        path.display(),
        args.path.display()
    ));
    Ok(0)
}

fn template(name: &str, entry: &provider::Entry) -> String {
    let keys = (entry.init_keys)();
    let kvm =
        if (entry.kvm)(&entry.default_sku) == provider::KvmSupport::Yes { "required" } else { "optional" };
    format!(
        r#"# A lane: one host, what runs on it, and how it is checked. `lane plan` shows what it would do.
version: 1
name: {name}
provider:
  name: {provider}
{keys}# sku: {sku}            # the instance type; this is the default
# image: {image}
# disk: 50 GB
kvm: {kvm}              # required | optional | none: must /dev/kvm run a guest?
lease:
  ttl: 2h                    # after this, the host powers itself off
# access: {{user: mvm, allow_from: auto}}
# cloud_init: cloud-init.yaml  # your own cloud-config, joined with lane's part

# Folders of this machine that go to the host; .gitignore is honoured.
sources: {{}}
#  app: {{path: ., to: /home/mvm/app}}

# Commands on the host, and what of their outputs goes where.
build: {{}}
#  app:
#    in: app
#    run: cargo build --release
#    install: {{target/release/app: /usr/local/bin/app}}

# systemd units, started in `after` order.
services: {{}}
#  app: {{unit: deploy/app.service}}

# Cheap checks: kvm, seccomp, http, tcp, unix, command, systemd.
probes:
  seccomp: {{kind: seccomp}}
#  web: {{kind: http, url: "http://127.0.0.1:8080/", expect: 200}}

# smoke: {{in: app, run: ./smoke.sh}}                      # one-shot proof, part of apply
# tests: {{in: app, run: ./test.sh, junit: junit.xml}}     # `lane test`, `lane run`
"#,
        provider = entry.name,
        sku = entry.default_sku,
        image = entry.default_image,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn every_provider_gets_a_spec_that_loads() {
        let world = World::capture().unwrap();
        for entry in provider::entries() {
            let text = template("fresh", entry);
            let path = world.cwd().join("fresh.yaml");
            let loaded = crate::spec::load_text(&world, &path, &text);
            assert!(
                loaded.is_ok(),
                "{}: {}",
                entry.name,
                loaded.err().map(|e| e.render(false)).unwrap_or_default()
            );
        }
    }
}
