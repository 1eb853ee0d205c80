// Of ComfyUI's page, which serves these two modules beside the pack's own.
declare module "*/scripts/api.js" {
  export const api: any
}
declare module "*/scripts/app.js" {
  export const app: any
}
