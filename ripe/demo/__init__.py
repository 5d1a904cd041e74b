"""The web demo: photos from anybody in, pictures and figures out. Only `ripe.demo.page` imports Gradio."""
