//! Types that no setting may have. The first test that loads a configuration with one fails, so no release has it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PREFIX;
use crate::reference;

#[test]
#[should_panic(expected = "`share` is of the form Some(\"number\"), which no setting has")]
fn a_float_is_no_setting() {
    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Forms {
        share: f64,
    }
    reference::<Forms>(PREFIX);
}

#[test]
#[should_panic(expected = "`store` is of the form None, which no setting has")]
fn a_choice_of_tables_is_no_setting() {
    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(untagged)]
    enum Store {
        Folder { path: String },
        Bucket { bucket: String },
    }
    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Forms {
        store: Store,
    }
    reference::<Forms>(PREFIX);
}

#[test]
#[should_panic(expected = "`loose` is a table that allows any key")]
fn a_table_that_would_swallow_a_misspelt_key_is_no_setting() {
    #[derive(Deserialize, Serialize, JsonSchema)]
    struct Loose {
        name: String,
    }
    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Forms {
        loose: Loose,
    }
    reference::<Forms>(PREFIX);
}

#[test]
#[should_panic(expected = "has a type that holds itself")]
fn a_type_that_holds_itself_is_no_setting() {
    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Tree {
        left: Option<Box<Tree>>,
    }
    reference::<Tree>(PREFIX);
}

#[test]
#[should_panic(expected = "`values` may be anything")]
fn a_value_of_any_form_is_no_setting() {
    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Forms {
        values: serde_json::Value,
        names: BTreeMap<String, String>,
    }
    reference::<Forms>(PREFIX);
}
