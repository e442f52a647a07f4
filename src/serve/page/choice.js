// Who answers: the base, one adapter, or several with a weight each.

/** Adapters of one mix, as many as the server runs together. */
const MOST = 4;
/** A mix is no name that a model can have: names have no character below a space. */
const MIX = "\u0001";

/** A colour for a name, the same each time. */
export function hue(name) {
  let sum = 7;
  for (const character of name) sum = (sum * 31 + character.codePointAt(0)) % 360;
  return sum;
}

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Puts names into a list; one that is chosen and not among them stays, marked. */
function refill(select, names, extra, chosen) {
  const options = names.map((name) => new Option(name, name));
  if (chosen !== "" && chosen !== MIX && !names.includes(chosen)) {
    options.push(new Option(`${chosen} (not listed)`, chosen));
  }
  select.replaceChildren(...options, ...extra);
  if (chosen !== "") select.value = chosen;
}

export class Choice {
  #base = "";
  #names = [];
  #select = element("select", { className: "who" });
  #rows = element("div", { className: "rows" });
  #add = element("button", { type: "button", className: "add", textContent: "Add an adapter" });
  #mix = element("div", { className: "mix", hidden: true }, this.#rows, this.#add);

  /** In the fieldset `root`, whose legend is its label. */
  constructor(root) {
    this.#select.setAttribute("aria-label", root.querySelector("legend").textContent);
    root.append(this.#select, this.#mix);
    this.#select.addEventListener("change", () => {
      if (this.#select.value === MIX && this.#rows.childElementCount === 0) this.#start();
      this.#update();
    });
    this.#add.addEventListener("click", () => {
      const used = this.#weights().map(({ name }) => name);
      const name = this.#names.find((name) => !used.includes(name)) ?? this.#names[0];
      this.#row(name, 0.5).querySelector("select").focus();
      this.#update();
    });
  }

  /** The models that there are: the base's name and the adapters'. */
  offer(base, names) {
    this.#base = base;
    this.#names = names;
    const mix = names.length > 0 ? [new Option("several adapters …", MIX)] : [];
    const chosen = this.#select.value || base;
    refill(this.#select, [base, ...names], mix, chosen);
    for (const select of this.#rows.querySelectorAll("select")) {
      refill(select, names, [], select.value);
    }
    this.#update();
  }

  /** What a request says of it, and what its reply is marked with. */
  value() {
    const chosen = this.#select.value;
    if (chosen !== MIX) return { request: chosen ? { model: chosen } : {}, by: chosen };
    const adapters = this.#weights();
    const by = adapters.map(({ name, weight }) => `${name} ${weight.toFixed(2)}`).join(" + ");
    return { request: { model: this.#base, adapters }, by: by || this.#base };
  }

  /** What `restore` brings back. */
  state() {
    return { chosen: this.#select.value, adapters: this.#weights() };
  }

  restore({ chosen, adapters }) {
    for (const { name, weight } of adapters) this.#row(name, weight);
    const mix = new Option("several adapters …", MIX);
    refill(this.#select, chosen === MIX ? [] : [chosen], [mix], chosen);
    this.#update();
  }

  /** Chooses a model by its name. */
  choose(name) {
    this.#select.value = name;
    this.#update();
  }

  #weights() {
    return [...this.#rows.children].map((row) => ({
      name: row.querySelector("select").value,
      weight: Number(row.querySelector("input").value),
    }));
  }

  /** The first two adapters, half of each. */
  #start() {
    for (const name of this.#names.slice(0, 2)) this.#row(name, 0.5);
  }

  #row(name, weight) {
    const select = element("select", { ariaLabel: "Adapter" });
    refill(select, this.#names, [], name);
    const shown = element("output");
    const range = { type: "range", min: "-1", max: "2", step: "0.05" };
    const slider = element("input", range);
    slider.value = String(weight);
    const remove = element("button", { type: "button", className: "remove", textContent: "×" });
    const row = element("div", { className: "row" }, select, slider, shown, remove);
    const show = () => {
      shown.textContent = Number(slider.value).toFixed(2);
      slider.setAttribute("aria-label", `Weight of ${select.value}`);
      remove.setAttribute("aria-label", `Remove ${select.value}`);
    };
    show();
    row.addEventListener("input", show);
    remove.addEventListener("click", () => {
      row.remove();
      this.#update();
      this.#add.focus();
    });
    this.#rows.append(row);
    return row;
  }

  #update() {
    this.#mix.hidden = this.#select.value !== MIX;
    this.#add.disabled = this.#rows.childElementCount >= MOST;
  }
}
