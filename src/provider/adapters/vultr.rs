//! Vultr: its keys, defaults and facts. Its API calls are not part of this build yet; `connect` says so.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::provider::{Entry, KvmSupport, Listed, Region, Sku, without_api};

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
    kept: &["VULTR_API_KEY"],
    kept_beside: &[],
    stands_for_itself: &[],
    sign_in: "",
    files: |_| vec![],
    tools: &[],
    endpoint: |world, keys| {
        crate::provider::http::endpoint(world, "vultr", keys["endpoint"].as_str(), "https://api.vultr.com/v2")
    },
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
    prices: PRICES,
    connect: |_, config, _| without_api::<Config>("vultr", config),
};

fn kvm(sku: &Sku) -> KvmSupport {
    // Bare metal plans are real hardware; nothing confirms nesting on the virtual ones.
    if sku.as_str().starts_with("vbm-") { KvmSupport::Yes } else { KvmSupport::Unknown }
}

const SOURCE: &str = "monthly list price of 2021-09 / 672 h";
static PRICES: &[Listed] = &[
    Listed::new("vbm-4c-32gb", "", 178_571, "USD", SOURCE),
    Listed::new("vbm-6c-32gb", "", 275_298, "USD", SOURCE),
    Listed::new("vbm-8c-132gb", "", 520_833, "USD", SOURCE),
    Listed::new("vbm-24c-256gb-amd", "", 1_190_476, "USD", SOURCE),
];
