//! `lane prices`: what hosts cost an hour, by the dated tables of the providers.

use std::cmp::Ordering;

use clap::Args;
use serde_json::json;

use super::lane::entry_of;
use super::list::columns;
use super::{Context, Format};
use crate::error::Failure;
use crate::provider::{self, Entry, KvmSupport, Listed, Sku};

/// Show what hosts cost an hour, the cheapest first; the tables are built in, each price with its source and date.
///
/// Currencies are not converted, and taxes, disks and addresses are not in it. A spec's `price` overrides the table.
#[derive(Debug, Args)]
pub(super) struct PricesArgs {
    /// A provider's name; with none, all.
    #[arg(value_name = "PROVIDER")]
    provider: Option<String>,
    /// Leave out what is known to have no /dev/kvm.
    #[arg(long)]
    kvm: bool,
    /// What to write.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// A price, and what is known of the host that it is for.
#[derive(Debug)]
struct Row {
    entry: &'static Entry,
    listed: &'static Listed,
    kvm: KvmSupport,
}

impl Row {
    fn order(&self, other: &Self) -> Ordering {
        let key = |row: &Self| (row.listed.micros, row.entry.name, row.listed.sku, row.listed.region);
        key(self).cmp(&key(other))
    }

    fn cells(&self) -> [String; 6] {
        let kvm = match self.kvm {
            KvmSupport::Yes => "yes",
            KvmSupport::No => "no",
            KvmSupport::Unknown => "unknown",
        };
        let price = self.listed.price();
        let region = if self.listed.region.is_empty() { "any" } else { self.listed.region };
        [self.entry.name, self.listed.sku, region, kvm, &price.per_hour.to_string(), &price.source]
            .map(str::to_owned)
    }
}

fn rows(entries: &[&'static Entry], kvm: bool) -> Vec<Row> {
    let of = |entry: &'static Entry| {
        entry.prices.iter().map(move |listed| Row {
            entry,
            listed,
            kvm: (entry.kvm)(&Sku::fixed(listed.sku)),
        })
    };
    let mut rows: Vec<Row> = entries.iter().copied().flat_map(of).collect();
    rows.retain(|row| !kvm || row.kvm != KvmSupport::No);
    rows.sort_by(Row::order);
    rows
}

pub(super) fn run(context: &Context, args: &PricesArgs) -> Result<u8, Failure> {
    let entries = match &args.provider {
        Some(name) => vec![entry_of(name)?],
        None => provider::entries().to_vec(),
    };
    let rows = rows(&entries, args.kvm);
    match args.format {
        Format::Json => {
            let prices: Vec<_> = rows
                .iter()
                .map(|row| {
                    let price = row.listed.price();
                    let region = Some(row.listed.region).filter(|region| !region.is_empty());
                    json!({
                        "provider": row.entry.name, "sku": row.listed.sku, "region": region, "kvm": row.kvm,
                        "per_hour": price.per_hour, "source": price.source,
                    })
                })
                .collect();
            let json = json!({"format_version": 1, "prices": prices});
            context.ui.line(&serde_json::to_string_pretty(&json).unwrap_or_default());
        }
        Format::Text if rows.is_empty() => context.ui.line("No price of such a host is known."),
        Format::Text => {
            let head = ["PROVIDER", "SKU", "REGION", "KVM", "PER HOUR", "SOURCE"].map(str::to_owned);
            let table: Vec<_> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
            context.ui.out(&columns(&table));
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_sorted_and_hosts_without_kvm_can_be_left_out() {
        let all = rows(provider::entries(), false);
        assert!(all.is_sorted_by_key(|row| row.listed.micros) && all.len() > 20, "{all:?}");
        let with_kvm = rows(provider::entries(), true);
        assert!(with_kvm.iter().all(|row| row.entry.name != "hetzner"), "{with_kvm:?}");
        assert!(with_kvm.iter().any(|row| row.kvm == KvmSupport::Unknown), "the unknown stay");
    }
}
