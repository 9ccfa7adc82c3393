//! Types that are no settings: found by the first test that loads them.

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::PREFIX;
use crate::reference;

#[test]
#[should_panic(expected = "`share` is of the form Some(\"number\"), which no setting has")]
fn a_float_is_no_setting() {
    #[derive(JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Forms {
        #[allow(dead_code, reason = "read by the schema alone")]
        share: f64,
    }
    reference::<Forms>(PREFIX);
}

#[test]
#[should_panic(expected = "`store` is of the form None, which no setting has")]
fn a_choice_of_tables_is_no_setting() {
    #[derive(JsonSchema)]
    #[serde(untagged)]
    enum Store {
        #[allow(dead_code, reason = "read by the schema alone")]
        Folder { path: String },
        #[allow(dead_code, reason = "read by the schema alone")]
        Bucket { bucket: String },
    }
    #[derive(JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Forms {
        #[allow(dead_code, reason = "read by the schema alone")]
        store: Store,
    }
    reference::<Forms>(PREFIX);
}

#[test]
#[should_panic(expected = "`loose` is a table that allows any key")]
fn a_table_that_would_swallow_a_misspelt_key_is_no_setting() {
    #[derive(JsonSchema)]
    struct Loose {
        #[allow(dead_code, reason = "read by the schema alone")]
        name: String,
    }
    #[derive(JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Forms {
        #[allow(dead_code, reason = "read by the schema alone")]
        loose: Loose,
    }
    reference::<Forms>(PREFIX);
}

#[test]
#[should_panic(expected = "has a type that holds itself")]
fn a_type_that_holds_itself_is_no_setting() {
    #[derive(JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Tree {
        #[allow(dead_code, reason = "read by the schema alone")]
        left: Option<Box<Tree>>,
    }
    reference::<Tree>(PREFIX);
}

#[test]
#[should_panic(expected = "`values` may be anything")]
fn a_value_of_any_form_is_no_setting() {
    #[derive(JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Forms {
        #[allow(dead_code, reason = "read by the schema alone")]
        values: serde_json::Value,
        #[allow(dead_code, reason = "read by the schema alone")]
        names: BTreeMap<String, String>,
    }
    reference::<Forms>(PREFIX);
}
