help: ## name every verb
	@echo placeholder
