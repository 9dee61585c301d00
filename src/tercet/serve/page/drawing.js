// Draws answers. Names come from data and from files: they are only ever set as text.

const SMALLEST = 200; // pixels: what is smaller is shown larger

function element(kind, className, text) {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text !== undefined) {
    made.textContent = text;
    made.dir = "auto"; // a name from right to left turns nothing else around
  }
  return made;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function row(label, share, before) {
  const item = element("li");
  const bar = element("span", "bar");
  bar.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  item.append(bar, element("span", "text", before ? `${before}: ${label}` : label), element("span", "number", percent(share)));
  return item;
}

function rows(title, items) {
  const list = element("ul", "rows");
  list.setAttribute("aria-label", title);
  list.append(...items);
  return [element("h3", "", title), list];
}

// From blue over yellow to red, and from clear to solid.
function heat(value) {
  const red = Math.min(255, 510 * value);
  const green = 255 * (1 - Math.abs(2 * value - 1));
  const blue = Math.max(0, 255 - 510 * value);
  return [red, green, blue, 40 + 130 * value];
}

function overlay(map) {
  const values = Uint8Array.from(atob(map.values), (one) => one.charCodeAt(0));
  const canvas = element("canvas");
  canvas.width = map.width;
  canvas.height = map.height;
  const context = canvas.getContext("2d", { willReadFrequently: true }); // a few cells: not worth a graphics card
  const pixels = context.createImageData(map.width, map.height);
  values.forEach((value, index) => pixels.data.set(heat(value / 255), 4 * index));
  context.putImageData(pixels, 0, 0);
  ["top", "left", "height", "width"].forEach((side, index) => {
    canvas.style[side] = `${100 * map.frame[index]}%`;
  });
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

function picture(file, answer) {
  const figure = element("figure", "picture");
  const shown = element("div", "shown");
  const frame = element("div", "frame");
  const image = element("img");
  image.alt = answer.label ? `The image, taken for ${answer.label}` : "The image";
  const address = URL.createObjectURL(file);
  image.addEventListener("load", () => {
    URL.revokeObjectURL(address);
    const larger = Math.floor(SMALLEST / Math.max(image.naturalWidth, image.naturalHeight));
    if (larger > 1) image.width = larger * image.naturalWidth;
  });
  image.addEventListener("error", () => {
    URL.revokeObjectURL(address);
    shown.replaceChildren(element("p", "", "This browser cannot show the image."));
  });
  image.src = address;
  frame.append(image);
  shown.append(frame);
  figure.append(shown, element("figcaption", "", file.name));
  if (answer.map) {
    const canvas = overlay(answer.map);
    const button = element("button", "plain", "Hide the heat map");
    button.type = "button";
    button.addEventListener("click", () => {
      canvas.hidden = !canvas.hidden;
      button.textContent = canvas.hidden ? "Show the heat map" : "Hide the heat map";
    });
    frame.append(canvas);
    figure.append(button);
  }
  return figure;
}

function heading(answer) {
  if (answer.labels) return answer.labels.length ? answer.labels.join(", ") : "no label";
  return answer.rejected ? `not sure, perhaps ${answer.label}` : answer.label;
}

/** Return the article about one file and what was said of it. */
export function drawn(file, answer) {
  const article = element("article", "answer");
  const said = element("div", "said");
  article.append(picture(file, answer), said);
  if (answer.error) {
    said.append(element("p", "problem", answer.error));
    return article;
  }
  said.append(element("h2", "", heading(answer)));
  if (answer.set) said.append(element("p", "", `Calibrated set: ${answer.set.join(", ") || "none"}`));
  said.append(...rows("All members together", answer.top.map((one) => row(one.label, one.probability))));
  if (answer.members.length > 1) {
    said.append(...rows("Each member alone", answer.members.map((one) => row(one.label, one.probability, one.name))));
  }
  return article;
}
