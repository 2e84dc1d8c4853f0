// A picture for visitors without one, drawn here.

const DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

let next = 3;

/** A picture that suits the network's classes, as a file. */
export async function drawExample(model) {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  const classes = (model?.classes ?? []).map((name) => name.toLowerCase());
  const digits = DIGITS.every((name, digit) => classes.includes(name) || classes.includes(String(digit)));
  const digit = next++ % 10;
  if (digits && model.task === "classification") drawDigit(canvas, context, digit);
  else if (digits) drawDigits(canvas, context, digit);
  else drawScene(canvas, context);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([blob], digits ? `example ${digit}.png` : "example.png", { type: "image/png" });
}

/** Strokes of each digit in a square of 100, as a pen would write them. */
const STROKES = [
  "M50 12C24 12 24 88 50 88S76 12 50 12Z",
  "M36 28 54 12V88",
  "M28 32C30 6 72 6 70 34C68 54 34 66 28 87H74",
  "M30 16H68L48 42C80 42 78 88 48 88C38 88 30 84 26 76",
  "M60 88V12L24 64H78",
  "M70 13H36L33 46C56 36 76 46 73 66C70 90 38 93 27 78",
  "M64 12C40 26 30 46 30 66C30 96 72 96 72 68C72 44 36 44 31 64",
  "M26 14H74L44 88",
  "M50 48C24 40 28 12 50 12S76 40 50 48C20 56 24 88 50 88S80 56 50 48Z",
  "M70 34C66 4 28 8 30 34C32 58 66 56 70 34C72 52 68 74 56 89",
];

/** White on black and as tall as the picture, like the embedded handwritten digits. */
function drawDigit(canvas, context, digit) {
  canvas.width = canvas.height = 256;
  context.fillStyle = "#000";
  context.fillRect(0, 0, 256, 256);
  context.setTransform(2.56, 0, 0, 2.94, 0, -19);
  write(context, digit, "#fff", 16);
}

function write(context, digit, colour, thickness) {
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = thickness;
  context.strokeStyle = colour;
  context.stroke(new Path2D(STROKES[digit]));
}

/** Digits in several colours and sizes on a landscape, like the embedded scenes. */
function drawDigits(canvas, context, first) {
  drawScene(canvas, context);
  const spots = [[40, 40, 2.4, "#f4f1e8"], [330, 30, 1.8, "#e23b5a"], [220, 210, 2.2, "#1c2b6b"], [480, 220, 2.6, "#f7c948"]];
  spots.forEach(([x, y, scale, colour], index) => {
    context.setTransform(scale, 0, 0, scale, x, y);
    write(context, (first + 3 * index) % 10, colour, 15);
  });
}

function drawScene(canvas, context) {
  [canvas.width, canvas.height] = [768, 512];
  const sky = context.createLinearGradient(0, 0, 0, 330);
  sky.addColorStop(0, "#5b9bd5");
  sky.addColorStop(1, "#dcecf7");
  fill(context, "M0 0H768V512H0Z", sky);
  context.beginPath();
  context.arc(630, 90, 42, 0, 2 * Math.PI);
  context.fillStyle = "#ffe9a3";
  context.fill();
  fill(context, "M0 300 150 150 250 240 370 120 560 300Z", "#8296a8");
  fill(context, "M0 300C180 230 330 270 470 290S680 250 768 262V512H0Z", "#6a9a55");
  fill(context, "M0 380C200 330 420 420 768 340V512H0Z", "#4f8043");
  fill(context, "M470 512C500 420 430 380 470 330L490 330C460 380 560 420 590 512Z", "#cdbb98");
  fill(context, "M150 260H310V380H150Z", "#e9dcc6");
  fill(context, "M132 264 230 186 328 264Z", "#a5483c");
  fill(context, "M212 310H248V380H212Z", "#6b4a35");
  fill(context, "M166 290H198V322H166ZM262 290H294V322H262Z", "#7fb0cf");
  fill(context, "M634 300H654V420H634Z", "#5e4330");
  for (const [x, y, radius] of [[644, 236, 62], [604, 276, 46], [688, 276, 46]]) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = "#2f6336";
    context.fill();
  }
}

function fill(context, path, style) {
  context.fillStyle = style;
  context.fill(new Path2D(path));
}
