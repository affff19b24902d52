//! A logical unit as an operator writes it down: `path=disk.img,lun=1,readonly`, or the same as JSON on the control socket.
//!
//! Knows the keys and what values they may have; opens nothing. A value is refused here by its name, before it means something else
//! further on.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::{LUN_MAX, UnitConfig};

/// Greatest length of a serial number, a vendor and a product, in bytes.
const SERIAL_MAX: usize = 36;
const VENDOR_MAX: usize = 8;
const PRODUCT_MAX: usize = 16;

/// A unit that is not described well. All are the operator's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not one of the keys.
    #[error(
        "{0:?} is not known of a logical unit; there are path, lun, serial, wwn, readonly, block-size, rotation-rate, thin, direct, lock, write-cache, vendor, product and reservations"
    )]
    Key(String),
    /// A key without what it needs.
    #[error("{0} needs a value")]
    NoValue(&'static str),
    /// A key that is there already.
    #[error("{0} is there twice")]
    Twice(&'static str),
    /// A value that does not fit.
    #[error("{key}={value} must be {wanted}")]
    Value {
        /// Whose.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would do.
        wanted: &'static str,
    },
    /// There is no unit without.
    #[error("a logical unit needs a path")]
    NoPath,
    /// All numbers are taken.
    #[error("all {} logical unit numbers are taken", u32::from(LUN_MAX) + 1)]
    NoNumber,
}

/// What was said of a unit; the rest has its defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of UnitConfig")]
pub struct UnitOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The lowest free number, if it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lun: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// 16 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_rate: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thin: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_cache: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservations: Option<PathBuf>,
}

impl FromStr for UnitOptions {
    type Err = UnitError;

    /// `KEY=VALUE,...`; two commas are one that belongs to the value.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let mut options = Self::default();
        for item in items(text) {
            let (key, value) = match item.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (item.as_str(), None),
            };
            options.set(key, value)?;
        }
        Ok(options)
    }
}

/// Splits at commas, of which a doubled one is none.
fn items(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == ',' && letters.next_if_eq(&',').is_none() {
            items.push(String::new());
        } else if let Some(item) = items.last_mut() {
            item.push(letter);
        }
    }
    items
}

impl UnitOptions {
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), UnitError> {
        match key {
            "path" => once(&mut self.path, "path", text("path", value)?.into()),
            "lun" => once(&mut self.lun, "lun", number("lun", value, LUN)?),
            "serial" => once(&mut self.serial, "serial", text("serial", value)?.into()),
            "wwn" => once(&mut self.wwn, "wwn", text("wwn", value)?.into()),
            "readonly" => once(&mut self.readonly, "readonly", switch("readonly", value)?),
            "block-size" => {
                let bytes = number("block-size", value, BLOCK_SIZE)?;
                once(&mut self.block_size, "block-size", bytes)
            }
            "rotation-rate" => {
                let rate = number("rotation-rate", value, ROTATION_RATE)?;
                once(&mut self.rotation_rate, "rotation-rate", rate)
            }
            "thin" => once(&mut self.thin, "thin", switch("thin", value)?),
            "direct" => once(&mut self.direct, "direct", switch("direct", value)?),
            "lock" => once(&mut self.lock, "lock", switch("lock", value)?),
            "write-cache" => {
                let on = switch("write-cache", value)?;
                once(&mut self.write_cache, "write-cache", on)
            }
            "vendor" => once(&mut self.vendor, "vendor", text("vendor", value)?.into()),
            "product" => once(&mut self.product, "product", text("product", value)?.into()),
            "reservations" => {
                let path = text("reservations", value)?.into();
                once(&mut self.reservations, "reservations", path)
            }
            _ => Err(UnitError::Key(key.to_owned())),
        }
    }

    /// The unit, with the number `free` if none was given.
    pub fn config(&self, free: Option<u16>) -> Result<UnitConfig, UnitError> {
        let path = self
            .path
            .as_ref()
            .filter(|path| !path.as_os_str().is_empty());
        let path = path.ok_or(UnitError::NoPath)?;
        let lun = self.lun.or(free).ok_or(UnitError::NoNumber)?;
        let defaults = UnitConfig::new(path, lun);
        let config = UnitConfig {
            serial: self.serial.clone().unwrap_or(defaults.serial),
            wwn: self.wwn.as_deref().map(world_wide_name).transpose()?,
            readonly: self.readonly.unwrap_or(defaults.readonly),
            block_size: self.block_size.unwrap_or(defaults.block_size),
            rotation_rate: self.rotation_rate.unwrap_or(defaults.rotation_rate),
            thin: self.thin.unwrap_or(defaults.thin),
            direct: self.direct.unwrap_or(defaults.direct),
            lock: self.lock.unwrap_or(defaults.lock),
            write_cache: self.write_cache.unwrap_or(defaults.write_cache),
            vendor: self.vendor.clone().unwrap_or(defaults.vendor),
            product: self.product.clone().unwrap_or(defaults.product),
            reservations: self.reservations.clone(),
            path: defaults.path,
            lun,
        };
        check(&config)?;
        Ok(config)
    }
}

const LUN: &str = "a number from 0 to 16383";
const BLOCK_SIZE: &str = "512 or 4096";
const ROTATION_RATE: &str = "0 (not reported), 1 (does not rotate) or 1025 to 65534";

fn check(config: &UnitConfig) -> Result<(), UnitError> {
    let refuse = |key, value: String, wanted| Err(UnitError::Value { key, value, wanted });
    if config.lun > LUN_MAX {
        return refuse("lun", config.lun.to_string(), LUN);
    }
    if !is_printable(&config.serial, SERIAL_MAX) {
        let wanted = "1 to 36 printable ASCII characters";
        return refuse("serial", config.serial.clone(), wanted);
    }
    if !is_printable(&config.vendor, VENDOR_MAX) {
        let wanted = "1 to 8 printable ASCII characters";
        return refuse("vendor", config.vendor.clone(), wanted);
    }
    if !is_printable(&config.product, PRODUCT_MAX) {
        let wanted = "1 to 16 printable ASCII characters";
        return refuse("product", config.product.clone(), wanted);
    }
    if !matches!(config.block_size, 512 | 4096) {
        return refuse("block-size", config.block_size.to_string(), BLOCK_SIZE);
    }
    // 2 to 400h and ffffh are reserved (SBC-4, 6.6.2).
    if !matches!(config.rotation_rate, 0 | 1 | 0x401..=0xfffe) {
        return refuse(
            "rotation-rate",
            config.rotation_rate.to_string(),
            ROTATION_RATE,
        );
    }
    Ok(())
}

fn is_printable(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

/// An NAA name of 8 bytes: IEEE extended, locally assigned or IEEE registered (SPC-5, 7.7.6.6).
fn world_wide_name(text: &str) -> Result<u64, UnitError> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let well_formed = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = u64::from_str_radix(digits, 16).ok().filter(|_| well_formed);
    let name = name.filter(|name| matches!(name >> 60, 2 | 3 | 5));
    name.ok_or_else(|| UnitError::Value {
        key: "wwn",
        value: text.to_owned(),
        wanted: "16 hexadecimal digits, of which the first is 2, 3 or 5 (NAA)",
    })
}

fn once<T>(option: &mut Option<T>, key: &'static str, value: T) -> Result<(), UnitError> {
    if option.is_some() {
        return Err(UnitError::Twice(key));
    }
    *option = Some(value);
    Ok(())
}

fn text<'a>(key: &'static str, value: Option<&'a str>) -> Result<&'a str, UnitError> {
    value
        .filter(|value| !value.is_empty())
        .ok_or(UnitError::NoValue(key))
}

fn number<T: FromStr>(
    key: &'static str,
    value: Option<&str>,
    wanted: &'static str,
) -> Result<T, UnitError> {
    let value = text(key, value)?;
    value.parse().map_err(|_| UnitError::Value {
        key,
        value: value.to_owned(),
        wanted,
    })
}

fn switch(key: &'static str, value: Option<&str>) -> Result<bool, UnitError> {
    match value {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(value) => Err(UnitError::Value {
            key,
            value: value.to_owned(),
            wanted: "on or off",
        }),
    }
}
