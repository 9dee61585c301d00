// Draws predictions. Class and file names are untrusted: they are set as text only, never as HTML.

const MIN_SIZE = 200; // pixels; smaller images are enlarged

function element(kind, className, text) {
  const node = document.createElement(kind);
  if (className) node.className = className;
  if (text !== undefined) {
    node.textContent = text;
    node.dir = "auto"; // right-to-left names must not reorder the text around them
  }
  return node;
}

function percent(fraction) {
  return `${(100 * fraction).toFixed(1)} %`;
}

function row(label, probability, member) {
  const item = element("li");
  const bar = element("span", "bar");
  bar.style.width = `${Math.max(0, Math.min(1, probability)) * 100}%`;
  item.append(bar, element("span", "text", member ? `${member}: ${label}` : label), element("span", "number", percent(probability)));
  return item;
}

function rows(title, items) {
  const list = element("ul", "rows");
  list.setAttribute("aria-label", title);
  list.append(...items);
  return [element("h3", "", title), list];
}

// Blue to yellow to red, with increasing opacity.
function heat(value) {
  const red = Math.min(255, 510 * value);
  const green = 255 * (1 - Math.abs(2 * value - 1));
  const blue = Math.max(0, 255 - 510 * value);
  return [red, green, blue, 40 + 130 * value];
}

function overlay(map) {
  const values = Uint8Array.from(atob(map.values), (character) => character.charCodeAt(0));
  const canvas = element("canvas");
  canvas.width = map.width;
  canvas.height = map.height;
  const context = canvas.getContext("2d", { willReadFrequently: true }); // few cells: faster without the GPU
  const pixels = context.createImageData(map.width, map.height);
  values.forEach((value, index) => pixels.data.set(heat(value / 255), 4 * index));
  context.putImageData(pixels, 0, 0);
  ["top", "left", "height", "width"].forEach((side, index) => {
    canvas.style[side] = `${100 * map.box[index]}%`;
  });
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

function figure(file, prediction) {
  const node = element("figure", "picture");
  const background = element("div", "background");
  const frame = element("div", "frame");
  const image = element("img");
  image.alt = prediction.label ? `Image classified as ${prediction.label}` : "Image";
  const url = URL.createObjectURL(file);
  image.addEventListener("load", () => {
    URL.revokeObjectURL(url);
    const scale = Math.floor(MIN_SIZE / Math.max(image.naturalWidth, image.naturalHeight));
    if (scale > 1) image.width = scale * image.naturalWidth;
  });
  image.addEventListener("error", () => {
    URL.revokeObjectURL(url);
    background.replaceChildren(element("p", "", "The browser cannot display this image."));
  });
  image.src = url;
  frame.append(image);
  background.append(frame);
  node.append(background, element("figcaption", "", file.name));
  if (prediction.map) {
    const canvas = overlay(prediction.map);
    const button = element("button", "plain", "Hide heat map");
    button.type = "button";
    button.addEventListener("click", () => {
      canvas.hidden = !canvas.hidden;
      button.textContent = canvas.hidden ? "Show heat map" : "Hide heat map";
    });
    frame.append(canvas);
    node.append(button);
  }
  return node;
}

function heading(prediction) {
  if (prediction.labels) return prediction.labels.length ? prediction.labels.join(", ") : "no label";
  return prediction.rejected ? `uncertain: ${prediction.label}?` : prediction.label;
}

/** Return an article with one image and its prediction. */
export function predictionCard(file, prediction) {
  const article = element("article", "prediction");
  const details = element("div");
  article.append(figure(file, prediction), details);
  if (prediction.error) {
    details.append(element("p", "error", prediction.error));
    return article;
  }
  details.append(element("h2", "", heading(prediction)));
  if (prediction.prediction_set) {
    const labels = prediction.prediction_set.join(", ") || "empty";
    details.append(element("p", "", `Prediction set: ${labels}`));
  }
  details.append(...rows("Ensemble", prediction.top.map((score) => row(score.label, score.probability))));
  if (prediction.members.length > 1) {
    const items = prediction.members.map((member) => row(member.label, member.probability, member.name));
    details.append(...rows("Members", items));
  }
  return article;
}
