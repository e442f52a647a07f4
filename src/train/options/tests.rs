//! What options promise.

use super::*;

#[test]
fn bounds_are_numbers_that_a_person_reads() {
    type Change = fn(&mut Options);
    let cases: [(Change, &str); 8] = [
        (|o| o.alpha = 0.0, "alpha is 0, a number above 0 was expected"),
        (|o| o.alpha = f32::INFINITY, "alpha is inf, a number above 0 was expected"),
        (
            |o| o.learning_rate = 0.0,
            "learning-rate is 0, a number above 0, at most 1000, was expected",
        ),
        (
            |o| o.learning_rate = f32::NAN,
            "learning-rate is NaN, a number above 0, at most 1000, was expected",
        ),
        (|o| o.dropout = 1.2, "dropout is 1.2, 0 to 0.999 was expected"),
        (
            |o| o.max_norm = -0.1,
            "max-norm is -0.1, a number above 0, or 0 for no clipping, was expected",
        ),
        (|o| o.rank = 0, "rank is 0, a whole number from 1 to 32768 was expected"),
        (|o| o.label_smoothing = 1.0, "label-smoothing is 1, 0 to 0.999 was expected"),
    ];
    for (change, expected) in cases {
        let mut options = Options::new(Method::Lora);
        change(&mut options);
        assert_eq!(options.check().unwrap_err().to_string(), expected);
    }
    assert!(Options::new(Method::Lora).check().is_ok());
}

#[test]
fn options_of_single_methods_are_set_from_text() {
    for option in MethodOption::own() {
        let mut options = Options::new(Method::Lora);
        assert_eq!((option.text)(&options), option.default(), "{}", option.name);
        let other = if option.value.is_empty() { "true" } else { "7.5" };
        option.set(&mut options, other).unwrap();
        assert_eq!((option.text)(&options), other, "{}", option.name);
        let error = option.set(&mut options, "much").unwrap_err().to_string();
        assert_eq!(error, format!("'much' is no value of {}", option.name));
    }
}
