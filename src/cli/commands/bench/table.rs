//! The figures as a table.

use serde_json::Value;

use crate::output::line;

/// Prints what `--json` prints, for people.
pub(super) fn print(facts: &Value) -> std::io::Result<()> {
    let number = |name: &str| facts[name].as_f64().unwrap_or(0.0);
    let word = |name: &str| facts[name].as_str().unwrap_or_default().to_owned();
    let row = |what: &str, value: String| line(format_args!("{what:<34}{value}"));
    let rate = |what: &str, name: &str| row(what, format!("{:>10.1} tokens/s", number(name)));
    let together = |what: &str, name: &str| match facts["batch"].as_u64() {
        Some(batch) => rate(&format!("decode of {batch} sequences{what}"), name),
        None => Ok(()),
    };
    let place = match facts.get("device") {
        Some(_) => format!("on {}", word("device")),
        None => format!("{} threads, {} kernels", facts["threads"], word("isa")),
    };
    line(format_args!("{place}, {}; medians of {} rounds", word("precision"), facts["rounds"]))?;
    rate(&format!("prefill of {} tokens", facts["prompt_tokens"]), "prefill_tokens_per_s")?;
    rate(&format!("decode of {} tokens", facts["tokens"]), "decode_tokens_per_s")?;
    together("", "batch_decode_tokens_per_s")?;
    let weights = number("weight_bytes_per_token");
    row("weights read per token", format!("{:>10.2} MB", weights / 1e6))?;
    let (what, measured) = match facts.get("measured_copy_gb_per_s") {
        Some(_) => ("at which the card copies", number("measured_copy_gb_per_s")),
        None => ("measured here", number("measured_read_gb_per_s")),
    };
    let read = number("read_gb_per_s");
    let share = 100.0 * read / measured;
    row(
        "decode reads",
        format!("{read:>10.2} GB/s, {share:.0} % of the {measured:.2} GB/s {what}"),
    )?;
    if facts.get("adapter_overhead").is_some() {
        rate("prefill with the adapters", "adapter_prefill_tokens_per_s")?;
        rate("decode with the adapters", "adapter_decode_tokens_per_s")?;
        together(", adapters", "adapter_batch_decode_tokens_per_s")?;
        let bytes = number("adapter_bytes_per_token");
        let share = 100.0 * bytes / weights;
        row(
            "adapters read per token",
            format!("{:>10.2} MB, {share:.1} % of the weights", bytes / 1e6),
        )?;
        let added = 100.0 * number("adapter_overhead");
        row("decode time the adapters add", format!("{added:>+10.1} %"))?;
    }
    Ok(())
}
