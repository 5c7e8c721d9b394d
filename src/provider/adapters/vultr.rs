//! Vultr: its keys, defaults and facts. Its API calls are not part of this build yet; `connect` says so.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::provider::{Entry, KvmSupport, Money, Price, Region, Sku, without_api};

/// Keys of provider `vultr`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the API calls, which are not part of this build yet")]
struct Config {
    /// Region, `ewr`.
    region: Option<String>,
    /// Base address of the API, for an emulator.
    endpoint: Option<String>,
}

pub(crate) static ENTRY: Entry = Entry {
    name: "vultr",
    about: "Vultr bare metal",
    credentials: &["VULTR_API_KEY"],
    default_sku: Sku::fixed("vbm-4c-32gb"),
    default_region: Region::fixed("ewr"),
    default_image: "ubuntu-24.04",
    listing_lag: Duration::from_secs(30),
    provision_timeout: Duration::from_mins(40),
    user_data_limit: 16384,
    cloud_clock: false,
    timer_stops_bill: false,
    region_key: "region",
    init_keys: || "  region: ewr\n".to_owned(),
    schema: |generator| generator.subschema_for::<Config>(),
    kvm,
    price,
    connect: |_, config, _| without_api::<Config>("vultr", config),
};

fn kvm(sku: &Sku) -> KvmSupport {
    // Bare metal plans are real hardware; nothing confirms nesting on the virtual ones.
    if sku.as_str().starts_with("vbm-") { KvmSupport::Yes } else { KvmSupport::Unknown }
}

fn price(sku: &Sku, region: &Region) -> Option<Price> {
    let micros = match (sku.as_str(), region.as_str()) {
        ("vbm-4c-32gb", _) => 178_571,
        ("vbm-6c-32gb", _) => 275_298,
        ("vbm-8c-132gb", _) => 520_833,
        _ => return None,
    };
    Some(Price {
        per_hour: Money { micros, currency: "USD".to_owned() },
        source: "monthly list price of 2021-09 / 672 h".to_owned(),
    })
}
