// Elements without markup: what a model or a person wrote is only ever put in as text.

/** The element of an id, which the page has. */
export const find = (id) => document.getElementById(id);

/**
 * A new element. `properties` are set as they are, but `class`, `data-…` and `aria-…` as attributes; children are
 * elements or texts, and what is null is left out.
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class" || name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Say something once to who listens rather than looks; the same words twice are said twice. */
export function announce(region, words) {
  region.textContent = "";
  setTimeout(() => { region.textContent = words; }, 50);
}

/** Put the text onto the clipboard; false where the browser refuses, as outside of https and localhost. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = make("textarea", { value: text, class: "unseen", readOnly: true });
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

/** A button that copies and says so for two seconds. */
export function copyButton(text, label) {
  const button = make("button", { type: "button", class: "plain", "aria-label": label }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copy(text())) ? "Copied" : "Could not copy";
    button.focus();
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return button;
}

/** Show what went wrong, with a way to try again where there is one. */
export function showTrouble(place, words, again) {
  place.replaceChildren(make("p", {}, words));
  if (again) {
    const button = make("button", { type: "button" }, "Try again");
    button.addEventListener("click", () => { place.hidden = true; again(); });
    place.append(button);
  }
  place.hidden = false;
}

/** What the browser remembers under a key, or null; a browser that keeps nothing is no reason to fail. */
export function recall(storage, key) {
  try {
    return JSON.parse(window[storage].getItem(key));
  } catch {
    return null;
  }
}

/** Remember a value; false where the browser keeps nothing, or has no room. */
export function remember(storage, key, value) {
  try {
    window[storage].setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
